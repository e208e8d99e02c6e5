"""Compiled programs are dropped before they take all of a process' memory mappings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxperturb as jp
from jaxperturb.engine import mappings

linux = pytest.mark.skipif(not mappings._LIMIT.exists(), reason="only Linux has such a limit")


@linux
@pytest.mark.parametrize("limit", ["1", "1000000000"])
def test_they_are_dropped_only_where_few_mappings_are_left(tmp_path, monkeypatch, limit, compilations):
    (tmp_path / "limit").write_text(limit)
    monkeypatch.setattr(mappings, "_LIMIT", tmp_path / "limit")
    call = jax.jit(lambda x: x * 3 + 1)
    assert float(call(jnp.float32(1))) == 4
    assert mappings.make_room() == (limit == "1")
    assert bool(compilations(lambda: call(jnp.float32(1)))) == (limit == "1")


def test_where_there_is_no_such_limit_nothing_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(mappings, "_LIMIT", tmp_path / "nowhere")
    assert not mappings.make_room()


@linux
def test_a_study_that_drops_them_has_the_same_outcomes(tmp_path, monkeypatch):
    digits = jp.load_dataset("digits")

    def study():
        found = jp.sweep("alexnet-digits", digits, "synapse_knockout", "fc7,fc8", levels="0.9", draws=1, images=30)
        return [found.outcomes("synapse_knockout", layer, 0.9).top1 for layer in ("fc7", "fc8")]

    expected = study()
    (tmp_path / "limit").write_text("1")
    monkeypatch.setattr(mappings, "_LIMIT", tmp_path / "limit")
    np.testing.assert_array_equal(study(), expected)
