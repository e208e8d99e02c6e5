"""The cells of a study from its record alone, their cost, and the shares of several machines."""

from dataclasses import replace
from decimal import Decimal

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_study import make_cell, make_curve, make_study

from jaxperturb.checkpoints import load_network
from jaxperturb.engine.plan import plan
from jaxperturb.errors import StudyError
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import CATALOGUE, parse_perturbations
from jaxperturb.study.cost import costs
from jaxperturb.study.planned import Shard, planned_cells, share, with_certain_levels, work
from jaxperturb.study.rows import CellCounts
from jaxperturb.study.study import _curve

STUDY = make_study(
    targets=("conv1", "fc2"),
    perturbations=(make_curve(once=("0", "1")), make_curve("resample", ("0.1", "0"), once=("0",))),
    draws=3,
    costs={"*": 100, "conv1": 90, "fc2": 10},
)


def test_the_cells_of_a_record_are_those_of_the_engines_plan():
    asked = parse_perturbations([name for name in CATALOGUE if name != "replay"])  # which needs a file
    levels = {one.text: one.check_levels(one.perturbation.levels()) for one in asked}
    study = make_study(perturbations=tuple(_curve(one, levels[one.text]) for one in asked), draws=3)
    work = plan(asked, levels, study.targets, 3)
    expected = [cell for item in work for cell in (*item.intact, *item.cells)]
    assert list(planned_cells(study)) == expected


def test_a_cell_that_stands_for_all_draws_is_there_once():
    draws = [cell.draw for cell in planned_cells(STUDY) if (cell.target, cell.level) == ("conv1", Decimal(1))]
    assert draws == [0]
    assert len(planned_cells(STUDY)) == 2 * (1 + 3 + 1 + 1 + 3)


def test_a_record_of_the_first_version_learns_from_its_cells():
    old = replace(STUDY, perturbations=tuple(replace(curve, once=()) for curve in STUDY.perturbations))
    stored = [
        CellCounts(cell, 20, {}, None, None, "intact" if cell.level == 0 else "all draws coincide")
        for cell in planned_cells(STUDY)
        if cell.level in (0, 1)
    ]
    assert set(planned_cells(with_certain_levels(old, stored))) == set(planned_cells(STUDY))


@given(st.integers(1, 40))
def test_shares_divide_a_study_without_rest_and_about_evenly(count):
    shares = [share(STUDY, Shard(number, count)) for number in range(1, count + 1)]
    cells = planned_cells(STUDY)
    assert sum(len(one) for one in shares) == len(cells)
    assert frozenset().union(*shares) == frozenset(cells)
    loads = [sum(work(STUDY, cell, 1) for cell in one) for one in shares]
    assert max(loads) <= sum(loads) / count + 90


def test_deep_layers_fill_a_share_with_more_cells():
    first, last = share(STUDY, Shard(1, 2)), share(STUDY, Shard(2, 2))
    assert {cell.target for cell in first} == {"conv1"}
    assert "fc2" in {cell.target for cell in last}
    assert len(first) < len(last)


def test_what_is_intact_costs_nothing():
    assert work(STUDY, make_cell("0"), 20) == 0
    assert work(STUDY, make_cell("0.5"), 20) == 20 * 90
    assert work(STUDY, make_cell("0.5", target="fc2"), 20) == 20 * 10


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "3/0", "-1/4", "1.5/4", "a/b", "1/2/3", "1/99999999"])
def test_other_words_than_a_share_are_refused(text):
    with pytest.raises(StudyError, match="expected a share of the cells such as 3/16"):
        Shard.parse(text)


def test_a_share_is_read_and_written():
    assert Shard.parse(" 3/16 ") == Shard(3, 16)
    assert str(Shard(3, 16)) == "3/16"


def dense(inputs, units):
    return {"kernel": jnp.zeros((inputs, units)), "bias": jnp.zeros(units)}


def test_costs_of_two_dense_layers_are_their_products():
    def apply(params, images):
        hidden = images.reshape(len(images), -1)
        for name in ("first", "last"):
            hidden = hidden @ params["params"][name]["kernel"] + params["params"][name]["bias"]
        return hidden

    network = Network(apply, {"params": {"first": dense(900, 600), "last": dense(600, 400)}})
    found = costs(network, (30, 30, 1), ("first", "last"))
    drawing = 0.256  # of one entry of a mask, for a block of 1000 images
    np.testing.assert_allclose(found["*"], 900 * 600 + 600 * 400, rtol=0.02)
    np.testing.assert_allclose(found["first"], 900 * 600 * (1 + drawing) + 600 * 400, rtol=0.02)
    np.testing.assert_allclose(found["last"], 600 * 400 * (1 + drawing), rtol=0.02)


def test_costs_fall_with_depth_and_two_layers_cost_like_the_first():
    network = load_network("alexnet-digits")
    names = network.layer_names()
    found = costs(network, network.image_shape, (*names, "conv4+fc6"))
    products = [found[name] for name in names]
    assert products[0] == max(products)
    assert found["fc8"] == min(products)
    assert found["conv4"] <= found["conv4+fc6"] <= found["conv4"] + found["fc6"]
