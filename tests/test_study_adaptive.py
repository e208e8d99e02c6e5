"""Studies that choose their draws and images, against a transcription of the rule and an engine whose truth is known."""

import functools
import itertools
import json
import math
import zlib
from dataclasses import asdict, replace
from decimal import Decimal

import numpy as np
import pytest
from sample_study import make_study
from scipy import stats
from test_study_runner import Asking, assert_equal, make_network, query

from jaxperturb.cli import main
from jaxperturb.data import from_arrays
from jaxperturb.engine.plan import Cell, plan
from jaxperturb.engine.run import Part
from jaxperturb.errors import StudyError
from jaxperturb.show.met import met_text, missed_text, reached
from jaxperturb.show.results import load_results, results_of
from jaxperturb.study.goal import Look
from jaxperturb.study.merge import merge_stores
from jaxperturb.study.planned import Shard, check_goal, planned_cells, share, undecided
from jaxperturb.study.progress import start_lines
from jaxperturb.study.runner import open_study, preview, run_study
from jaxperturb.study.status import read_status
from jaxperturb.study.store import open_store
from jaxperturb.study.study import Study

IMAGES, FIRST, STEP = 1700, 512, 512
LEVELS = ("0", "0.3", "0.6", "1")
SPREADS = {"first": 0.5, "last": 0.02}  # of the draws' effects, on the logit, times the level
MEANS = {"0": 2.0, "0.3": 1.0, "0.6": -0.5, "1": -2.0}
RNG = np.random.default_rng(5)
EASE = RNG.normal(size=IMAGES)
NETWORK, WIDTH = make_network(), 0.034
DATA = from_arrays(RNG.normal(size=(IMAGES, 3, 3, 1)).astype(np.float32), np.arange(IMAGES) % 4)


def right(cell, seed=0):
    """Whether each image is right in a cell: images and draws have normal effects on the logit."""
    level = str(cell.level)
    differs = level not in ("0", "1")
    name = f"{seed} {cell.target} {level} {cell.draw if differs else 0}" if level != "0" else f"{seed} intact"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    effect = SPREADS[cell.target] * float(level) * rng.normal() * differs
    chance = 1 / (1 + np.exp(-(MEANS[level] + effect + EASE + 0.5 * rng.normal(size=IMAGES))))
    return rng.random(IMAGES) < chance


def bernoulli_engine(calls, data_seed=0):
    def run(network, images, asked, levels, targets, draws, seed, *, batch_size, done, intact, on_event):
        for start in range(0, len(images), batch_size):
            stop = min(start + batch_size, len(images))
            for item in plan(asked, levels, targets, draws, intact=intact):
                for cell in (*item.intact, *item.cells):
                    if not done(cell, start, stop):
                        calls.append((cell, start, stop))
                        outcomes = np.tile(right(cell, data_seed)[images.positions[start:stop]], (5, 1))
                        shortcut = "intact" if cell in item.intact else "all draws coincide" * (cell.level == 1)
                        yield Part(cell, start, stop, outcomes, 1, 1, shortcut)

    return run


class Choosing(Asking):
    """The pieces of a study that chooses its draws and images."""

    def __init__(self, path=None, half_width=WIDTH, of="accuracy", max_draws=30, levels="0,0.3,0.6,1", data_seed=0,
                 draws=5, fixed=False, **fields):  # fmt: skip
        fields = {"images": IMAGES, "dataset": DATA, "batch_size": 1000, "network": NETWORK} | fields
        super().__init__(path, levels=levels, draws=draws, **fields)
        if not fixed:
            self.study = replace(self.study, goal=check_goal(half_width, of, self.study, draws, max_draws))
        if "run" not in fields:
            self.run = bernoulli_engine(self.calls, data_seed)

    def looks(self):
        """Runs it and returns what was decided, by target."""
        self()
        with open_store(self.path) as store:
            return {look.target: (look.draws, look.images) for look in store.study().looks}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.sqlite"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The outcomes and the decisions of a study that nothing disturbed."""
    asking = Choosing(tmp_path_factory.mktemp("whole") / "results.sqlite")
    found = asking()
    with open_store(asking.path) as store:
        return found, store.study().looks


@functools.cache
def positions():
    return Choosing().prepared.positions


def mean_squares(outcomes):
    """MSA, MSB and MSE of D x I outcomes, as the two-way layout defines them."""
    draws, images = outcomes.shape
    p, rows, columns = outcomes.mean(), outcomes.mean(axis=1), outcomes.mean(axis=0)
    msa = images * ((rows - p) ** 2).sum() / (draws - 1)
    msb = draws * ((columns - p) ** 2).sum() / (images - 1)
    rest = ((outcomes - p) ** 2).sum() - (draws - 1) * msa - (images - 1) * msb
    return msa, msb, rest / ((draws - 1) * (images - 1))


def rule(outcomes, half_width, max_draws, max_images):
    """The two-look rule, written down once more: the cheapest draws and images with which most levels are expected."""
    z2 = stats.norm.ppf(0.98) ** 2
    parts = []
    for one in outcomes:
        msa, msb, mse = mean_squares(one.astype(float))
        parts.append((max((msa - mse) / one.shape[1], 0), max((msb - mse) / len(one), 0), max(mse, 0)))
    needed = max(z2 * vb for _, vb, _ in parts) / half_width**2
    sizes = [max_images] if needed > max_images else [FIRST]
    while sizes[-1] < min(2 * needed, max_images):
        sizes.append(min(sizes[-1] + STEP, max_images))
    best = None
    for images in sizes:
        image_part = [z2 * vb / images for _, vb, _ in parts]
        for draws in range(5, max_draws + 1):
            t2 = stats.t.ppf(0.98, draws - 1) ** 2
            total = [
                t2 * (va + ve / images) / draws + part for (va, _, ve), part in zip(parts, image_part, strict=True)
            ]
            if all(one <= half_width**2 for one, part in zip(total, image_part, strict=True) if part <= half_width**2):
                break
        met = sum(one <= half_width**2 for one in total)
        if best is None or (-met, draws * images) < best[0]:
            best = ((-met, draws * images), draws, images, met)
    return best[1:]


def first_look(target, seed=0):
    """The outcomes that decide: levels x 5 draws x the first 512 images of the study's order."""
    some = positions()[:FIRST]
    return [
        np.stack([right(Cell("", target, Decimal(level), draw), seed)[some] for draw in range(5)]) for level in LEVELS
    ]


@pytest.mark.parametrize(("half_width", "max_draws", "images"), [
    (0.04, 30, IMAGES), (0.03, 30, IMAGES), (0.08, 30, IMAGES), (0.03, 12, IMAGES), (0.04, 30, 600), (0.01, 7, 1000),
])  # fmt: skip
def test_what_is_decided_is_the_rule(path, half_width, max_draws, images):
    found = Choosing(path, half_width=half_width, max_draws=max_draws, images=images).looks()
    if images < IMAGES:
        order = Choosing(images=images).prepared.positions
        np.testing.assert_array_equal(order[:FIRST], positions()[:FIRST])  # images are nested
    for target in SPREADS:
        assert found[target] == rule(first_look(target), half_width, max_draws, images)[:2]


def test_wild_layers_get_more_draws_and_all_levels_of_a_layer_the_same(whole):
    found, looks = whole
    by_target = {look.target: look for look in looks}
    assert by_target["first"].draws > by_target["last"].draws >= 5
    for target, look in by_target.items():
        for level in ("0.3", "0.6"):
            cells = {
                cell: outcomes
                for cell, outcomes in found.items()
                if (cell.target, cell.level) == (target, Decimal(level))
            }
            assert sorted(cell.draw for cell in cells) == list(range(look.draws))
            assert {outcomes.shape[1] for outcomes in cells.values()} == {look.images}


def test_the_cells_are_those_of_a_fixed_study(whole):
    for cell, outcomes in whole[0].items():
        np.testing.assert_array_equal(outcomes[0], right(cell)[positions()[: outcomes.shape[1]]])


def test_nothing_is_computed_twice_nor_in_vain(path):
    asking = Choosing(path)
    found = asking()
    computed = sum(stop - start for _, start, stop in asking.calls)
    assert computed == sum(outcomes.shape[1] for outcomes in found.values())
    again = Choosing(path)
    assert_equal(again(), found)
    assert again.calls == []


@pytest.mark.parametrize("batch_size", [100, 300, 512, 5000])
def test_the_block_changes_nothing(whole, batch_size):
    assert_equal(Choosing(batch_size=batch_size)(), whole[0])


class Killed(BaseException):
    """Ends a run as a signal would."""


@pytest.mark.parametrize("after", [3, 24, 25, 40])  # the first look has 2 x (1 + 2 x 5 + 1) = 24 parts
def test_a_kill_at_any_time_changes_nothing(path, whole, after):
    parts = []

    def kill(part):
        parts.append(part)
        if len(parts) == after:
            raise Killed

    with pytest.raises(Killed):
        Choosing(path, on_part=kill)()
    second = Choosing(path)
    assert_equal(second(), whole[0])
    with open_store(path) as store:
        assert store.study().looks == whole[1]
    undisturbed = Choosing()
    undisturbed()
    assert len(second.calls) + after == len(undisturbed.calls)


def test_a_kill_between_the_looks_changes_nothing(path, whole):
    def kill(start):
        assert start.second
        raise Killed

    with pytest.raises(Killed):
        Choosing(path, on_look=kill)()
    with open_store(path) as store:
        assert store.study().looks == whole[1]
    assert_equal(Choosing(path)(), whole[0])


@pytest.mark.parametrize("count", [2, 3])
def test_shares_decide_alike_and_make_the_whole(tmp_path, whole, count):
    paths = [tmp_path / f"{number}.sqlite" for number in range(1, count + 1)]
    for number, path in enumerate(paths, 1):
        found = Choosing(path, shard=Shard(number, count))()
        assert {(cell.target, str(cell.level)) for cell in found} == {
            (target, level) for target in {cell.target for cell in found} for level in LEVELS
        }
    out = tmp_path / "merged.sqlite"
    merge_stores(paths, out)
    with open_store(out) as store:
        assert store.study().looks == whole[1]
        assert_equal({counts.cell: store.outcomes(counts.cell)[1] for counts in store.cells()}, whole[0])
    after = Choosing(out)
    assert_equal(after(), whole[0])
    assert after.calls == []


def test_shares_stay_the_same_when_some_have_decided():
    study = Choosing().study
    for number in (1, 2):
        own = share(study, Shard(number, 2))
        later = replace(study, looks=(Look("synapse_knockout", "first", 30, IMAGES, 4),))
        assert {cell.target for cell in share(later, Shard(number, 2))} == {cell.target for cell in own}


def test_more_levels_leave_the_decisions(path):
    few = Choosing(path, levels="0,0.6,1", targets=("first",)).looks()
    assert few["first"] != rule(first_look("first"), WIDTH, 30, IMAGES)[:2], "the new level would decide otherwise"
    more = Choosing(path)
    found = more()
    with open_store(path) as store:
        looks = {look.target: (look.draws, look.images) for look in store.study().looks}
    assert looks["first"] == few["first"]
    assert {outcomes.shape[1] for cell, outcomes in found.items() if cell.target == "first"} == {few["first"][1]}


@pytest.mark.parametrize(
    ("before", "then"),
    [
        ({"half_width": 0.06}, {}),
        ({"images": 700}, {}),
        ({"max_draws": 6}, {}),
        ({}, {"of": "relative"}),
        ({"fixed": True, "draws": 8, "images": 800}, {}),
    ],
)
def test_another_wish_is_decided_as_if_it_were_the_first(path, before, then):
    Choosing(path, **before)()
    found = Choosing(path, **then)()
    with open_store(path) as store:
        looks = store.study().looks
    fresh = path.with_name("fresh.sqlite")
    expected = Choosing(fresh, **then)()
    with open_store(fresh) as store:
        assert store.study().looks == looks
    for cell, outcomes in expected.items():
        np.testing.assert_array_equal(found[cell][:, : outcomes.shape[1]], outcomes)


def test_a_fixed_study_may_follow(path):
    Choosing(path)()
    after = Choosing(path, fixed=True, draws=6, images=800)
    found = after()
    assert sum(cell.level == Decimal("0.3") for cell in found) >= 12
    with open_store(path) as store:
        assert store.study().goal is None
        assert all(store.covers(cell, 0, 800) for cell in planned_cells(after.study))


def test_what_a_run_would_compute_is_said_for_both_looks(path):
    asking = Choosing(path)
    start = preview(path, asking.study)
    assert (start.cells, start.waiting) == (24, 2)
    assert start.evaluations == 24 * FIRST
    lines = start_lines(start, "runs/x")
    assert "on up to 1,700 images: 24 lesions, 12,288 evaluations" in lines[0]
    assert "within 30 draws and 1,700 images" in lines[1]

    starts = []
    asking = Choosing(path, on_look=starts.append)
    asking()
    first = [(cell, start, stop) for cell, start, stop in asking.calls if stop <= FIRST and cell.draw < 5]
    assert len(first) == 24
    (second,) = starts
    assert second.evaluations == sum(stop - start for _, start, stop in asking.calls) - 24 * FIRST
    assert second.second
    assert start_lines(second, "runs/x")[0].startswith("Second look, 5 to ")
    assert preview(path, Choosing().study).cells == 0


def test_status_knows_that_the_first_look_is_not_all(path):
    parts = []

    def kill(part):
        parts.append(part)
        if len(parts) == 5:
            raise Killed

    with pytest.raises(Killed):
        Choosing(path, on_part=kill)()
    status = read_status(path)
    assert (status.done, status.planned, status.waiting) == (5, 24, 2)
    Choosing(path)()
    status = read_status(path)
    assert (status.waiting, status.evaluations) == (0, 0)
    assert status.done == status.planned


def test_relative_performance_is_wanted_otherwise(path):
    found = Choosing(path, half_width=0.05, of="relative").looks()
    for target in SPREADS:
        outcomes = first_look(target)
        reference = outcomes[0].mean()
        # The variance of a ratio, by the delta method: that of y - r y0, over p0.
        linear = [(one.astype(float) - one.mean() / reference * outcomes[0]) / reference for one in outcomes]
        assert found[target] == rule(linear, 0.05, 30, IMAGES)[:2]


def test_without_draws_there_is_one_and_images_are_chosen(path):
    found = Choosing(path, perturbations="magnitude_knockout", levels="0,0.3,0.6", half_width=0.03, draws=1).looks()
    for draws, images in found.values():
        assert draws == 1
        assert images > FIRST
    with open_store(path) as store:
        results = results_of(store)
        for target in SPREADS:
            widths = [one.half_width for one in reached(results, "magnitude_knockout", target)]
            assert max(widths) <= 0.031


def test_intervals_have_the_quantiles_of_two_looks(path, whole):
    Choosing(path)()
    table = load_results(path).by_level().set_index(["target", "level_text"])
    look = next(look for look in whole[1] if look.target == "first")
    row = table.loc[("first", "0.6")]
    outcomes = np.stack(
        [planes[0] for cell, planes in whole[0].items() if (cell.target, cell.level) == ("first", Decimal("0.6"))]
    )
    assert outcomes.shape == (look.draws, look.images)
    p, (msa, msb, mse) = outcomes.mean(), mean_squares(outcomes.astype(float))
    t, z = stats.t.ppf(0.98, look.draws - 1), stats.t.ppf(0.98, look.images - 1)
    h = (t**2 * msa + z**2 * max(msb - mse, 0)) / outcomes.size / (p * (1 - p))
    reach = math.sqrt(h * p * (1 - p) + h * h / 4) / (1 + h)
    assert row["value"] == pytest.approx(p)
    assert (row["high"] - row["low"]) / 2 == pytest.approx(reach)
    # Where all draws coincide, the images alone are looked at, and not twice.
    p = table.loc[("first", "1"), "value"]
    h = stats.t.ppf(0.975, look.images - 1) ** 2 / look.images * look.images / (look.images - 1)
    reach = math.sqrt(h * p * (1 - p) + h * h / 4) / (1 + h)
    assert (table.loc[("first", "1"), "high"] - table.loc[("first", "1"), "low"]) / 2 == pytest.approx(reach, rel=1e-3)


def test_reports_say_which_levels_met_it(path):
    Choosing(path, half_width=0.03, max_draws=6)()
    results = load_results(path)
    levels, summary = results.by_level(), results.summary()
    met = (levels["high"] - levels["low"]) / 2 <= 0.03
    assert levels["met"].tolist() == met.tolist()
    assert not met.all()
    assert summary["levels"].tolist() == [4, 4]
    assert summary["levels_met"].tolist() == [int(met[levels["target"] == target].sum()) for target in SPREADS]
    assert met_text(results).startswith(f"half-width 0.03: met by {met.sum()} of 8 levels, within 6 draws")
    missed = levels[~met].iloc[0]
    width = (missed["high"] - missed["low"]) / 2
    assert f"{missed['target']} at {missed['level_text']} ({width:.3f})" in missed_text(results, "synapse_knockout")


def test_layers_are_ranked_and_compared_on_the_images_that_all_have(path):
    looks = Choosing(path).looks()
    assert len({images for _, images in looks.values()}) == 2
    results = load_results(path)
    assert set(results.ranking()["target"]) == set(SPREADS)
    ((one, other),) = results.differences()[["first", "second"]].to_numpy()
    assert (one, other) == ("first", "last")
    fewest = min(images for _, images in looks.values())
    areas = results.ranking().set_index("target")["area"]
    for target in SPREADS:
        curve = results.level_curve("synapse_knockout", target, images=fewest)
        assert curve.crossed.images == fewest
        above = (curve.accuracy - 0.25) / (curve.reference - 0.25)
        assert areas[target] == pytest.approx(np.trapezoid(above, [float(level) for level in LEVELS]))


def test_two_perturbations_of_a_layer_are_paired_on_common_draws(path):
    Choosing(path, perturbations="synapse_knockout,resample")()
    found = load_results(path).differences(between="perturbations")
    assert found["of"].tolist() == ["first", "last"]
    # The engine's outcomes are the same for both.
    np.testing.assert_allclose(found["difference"], 0, atol=1e-12)


def test_intervals_hold_as_often_as_they_should():
    """Over many studies, in each with new draws; the images are the same, and so the truth is that of these."""
    held, met = [], []
    cells = itertools.product(SPREADS, ("0.3", "0.6"))
    truths = {key: np.mean([right_of(*key, seed) for seed in range(400)]) for key in cells}
    for seed in range(25):
        asking = Choosing(data_seed=1000 + seed)
        with open_study(None, asking.study, asking.prepared) as store:
            run_study(asking.study, store, asking.network, asking.prepared, asking.asked, asking.levels,
                      batch_size=512, run=asking.run)  # fmt: skip
            table = results_of(store).by_level()
        for row in table[table["level_text"].isin(["0.3", "0.6"])].to_dict("records"):
            truth = truths[row["target"], row["level_text"]]
            held.append(row["low"] <= truth <= row["high"])
            met.append(row["met"])
    assert len(held) == 100
    assert np.mean(held) >= 0.93  # images being the same in all, 95 % and more
    assert np.mean(met) >= 0.8


def right_of(target, level, seed):
    return right(Cell("", target, Decimal(level), 0), 5000 + seed).mean()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"half_width": 0}, "between 0 and 1, such as 0.02, got 0"),
        ({"half_width": 1.0}, "between 0 and 1"),
        ({"half_width": math.nan}, "between 0 and 1"),
        ({"half_width": True}, "between 0 and 1"),
        ({"half_width": "0.02"}, "between 0 and 1"),
        ({"of": "area"}, "half_width_of accuracy or relative, got 'area'"),
        ({"draws": 4}, "looks first at 5 draws or more, not at 4"),
        ({"max_draws": 4}, "5 draws, more than max_draws=4"),
        ({"images": 1}, "2 images or more"),
    ],
)
def test_what_cannot_be_wanted_is_refused(asked, message):
    with pytest.raises(StudyError, match=message):
        Choosing(**asked)


def test_a_record_keeps_goal_and_decisions_and_older_ones_lack_them(whole):
    study = replace(Choosing().study, looks=whole[1])
    assert Study.from_json(study.to_json()) == study
    assert undecided(study) == ()
    old = {name: value for name, value in asdict(make_study()).items() if name not in ("goal", "looks")}
    assert Study.from_json(json.dumps(old)) == make_study()


def test_the_command_line_chooses_too(tmp_path, capsys):
    out = tmp_path / "study"
    words = ["sweep", "--perturbations=synapse_knockout", "--layers=fc8", "--levels=0,0.6", "--images=60"]
    assert main.run([*words, "--half_width=0.2", "--dry_run", f"--out={out}"]) == 0
    assert "That is a first look at 5 draws on 60 images" in capsys.readouterr().out
    assert main.run([*words, "--half_width=0.2", f"--out={out}"]) == 0
    printed, said = capsys.readouterr()
    assert "half-width 0.2: met by 2 of 2 levels, within 20 draws and 60 images" in printed
    assert "Half-width 0.2: met by 2 of 2 levels" in said
    assert "met" in (out / "levels.csv").read_text().splitlines()[0]
    assert query(out / "results.sqlite", "SELECT json_extract(asked, '$.looks[0].draws') FROM study") == [(5,)]
    assert main.run(["sweep", f"--config={out / 'config.json'}"]) == 0
    assert "nothing to compute" in capsys.readouterr().err
    assert main.run(["plan", str(out), "--half_width=0.1"]) == 0
    assert "at the pilot's pace" in capsys.readouterr().out
    assert main.run(["compare", str(out), str(out)]) == 0
    assert "paired on 60 images, draws taken as independent" in capsys.readouterr().out
    assert main.run([*words, "--half_width=2", f"--out={out}"]) == 2
    assert "expected a half_width between 0 and 1" in capsys.readouterr().err
