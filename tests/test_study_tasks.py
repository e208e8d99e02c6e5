"""How a study is cut into tasks: nothing is left out or done twice, large enough, and given out sensibly."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxperturb.engine.plan import plan
from jaxperturb.perturb.catalogue import parse_perturbations
from jaxperturb.study.tasks import Task, choose, tasks_of

ASKED = parse_perturbations("synapse_knockout,gaussian_noise")
LEVELS = {one.text: tuple(map(Decimal, ("0", "0.5", "1"))) for one in ASKED}
TARGETS = ("early", "middle", "late")
COSTS = {"*": 120, "early": 100, "middle": 40, "late": 1}


def planned(draws):
    return plan(ASKED, LEVELS, TARGETS, draws)


@given(
    draws=st.integers(1, 60),
    images=st.integers(1, 400),
    size=st.integers(50, 200),
    workers=st.integers(1, 9),
    share=st.integers(1, 5),
)
def test_each_missing_lesion_is_in_one_task_of_each_block(draws, images, size, workers, share):
    work = planned(draws)
    blocks = [(start, min(start + size, images)) for start in range(0, images, size)]
    cells = [cell for one in work for cell in (*one.intact, *one.cells)]
    wanted = {
        (start, stop, cell)
        for number, (start, stop) in enumerate(blocks)
        for place, cell in enumerate(cells)
        if (place + number) % share == 0
    }
    tasks = tasks_of(work, blocks, lambda cell, start, stop: (start, stop, cell) in wanted, COSTS, workers)
    found = [(task.start, task.stop, cell) for task in tasks for cell in task.cells]
    assert len(found) == len(set(found))
    assert set(found) == wanted
    assert [task.work for task in tasks] == sorted((task.work for task in tasks), reverse=True)
    computed = {cell for one in work for cell in one.cells}
    for task in tasks:
        assert task.work == sum(
            COSTS[cell.target] * (task.stop - task.start) for cell in task.cells if cell in computed
        )
        assert [*task.cells] == [cell for cell in cells if cell in task.cells], "in the engine's order"


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_tasks_are_worth_many_passes_of_the_intact_network_and_enough_for_all(workers):
    work = planned(1000)
    tasks = tasks_of(work, [(0, 500)], lambda *_: True, COSTS, workers)
    assert len(tasks) >= 4 * workers
    passes = [task.work / (500 * COSTS["*"]) for task in tasks]
    assert min(passes[:-1]) > 10  # the last one may be what is left
    assert max(task.work for task in tasks) < sum(task.work for task in tasks) / (2 * workers)


def test_levels_of_a_draw_stay_together():
    tasks = tasks_of(planned(500), [(0, 100)], lambda *_: True, COSTS, 4)
    draws = [{(cell.perturbation, cell.target, cell.draw) for cell in task.cells if cell.draw} for task in tasks]
    assert sum(map(len, draws)) == len(set().union(*draws))


def test_little_work_is_one_task():
    assert len(tasks_of(planned(2), [(0, 500)], lambda *_: True, COSTS, 8)) == 1
    assert tasks_of(planned(2), [(0, 500)], lambda *_: False, COSTS, 8) == []


def test_a_worker_stays_with_its_layers_then_takes_one_of_nobody_then_helps():
    (cell,) = [cell for cell in planned(1)[0].cells if cell.level == Decimal("0.5")]
    by_name = {
        name: Task(0, 1, (type(cell)(cell.perturbation, name, cell.level, 0),), work)
        for work, name in enumerate(("a", "b", "c"))
    }
    tasks = [by_name[name] for name in "cba"]
    assert choose(tasks, frozenset("a"), frozenset("abc")).targets == ("a",)
    assert choose(tasks, frozenset("x"), frozenset("xc")).targets == ("b",)
    assert choose(tasks, frozenset("x"), frozenset("xabc")).targets == ("c",)


def test_what_is_left_of_a_task_is_what_was_not_computed_on_all_of_its_images():
    cells = planned(3)[0].cells
    task = Task(10, 30, cells, 1)
    found = [(cells[0], 10, 30), (cells[1], 10, 20), (cells[1], 20, 30), (cells[2], 10, 20)]
    assert task.without(found).cells == cells[2:]
    assert task.without([]) == task
    assert task.without([(cell, 10, 30) for cell in cells]) is None
