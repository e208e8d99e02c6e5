"""Studies and parts made up for the tests of storing and showing."""

import zlib
from dataclasses import replace
from decimal import Decimal

import numpy as np

from jaxperturb.engine.plan import Cell
from jaxperturb.engine.run import Part
from jaxperturb.study.store import RunRecord
from jaxperturb.study.study import Curve, Identity, Study

RECORD = RunRecord("host", 1, "{}", "{}", "jaxperturb sweep", "float32", "{}", "{}")


def make_curve(text="synapse_knockout", levels=("0", "0.5", "1"), **fields):
    return Curve(text, "summary", "fraction of weights", "linear", "0", levels, **fields)


def make_identity(**fields):
    plain = Identity(
        weights="a" * 64,
        images=("b" * 64, "c" * 64),
        image_shape=(8, 8, 1),
        preprocessing={"resize": 8, "mean": [0.5]},
        classes=("zero", "one"),
        outputs=10,
        seed=0,
        semantics=0,
        precision="float32",
        tiles={"small": 128, "large": 256, "convolutions": "xla"},
    )
    return replace(plain, **fields)


def make_study(identity=None, **fields):
    plain = Study(
        network="net",
        dataset="digits",
        split="test",
        layers=("conv10", "conv1", "fc2"),
        targets=("conv1", "fc2"),
        perturbations=(make_curve(),),
        draws=2,
        images=20,
        metric="top1",
        identity=identity or make_identity(),
    )
    return replace(plain, **fields)


def image_rows(images=20):
    return [(100 + position, f"digits/{position}", position % 10) for position in range(images)]


def make_cell(level="0.5", draw=0, target="conv1", perturbation="synapse_knockout"):
    return Cell(perturbation, target, Decimal(level), draw)


def make_part(cell, start=0, stop=20, shortcut="", right=None):
    """A part with arbitrary outcomes, or with exactly the first `right` images in the first class."""
    seed = zlib.crc32(str(cell).encode())
    outcomes = np.random.default_rng(seed).random((5, 1000))[:, start:stop] < 0.6
    if right is not None:
        outcomes[0] = np.arange(start, stop) < right
    return Part(cell, start, stop, outcomes, 7, 6, shortcut)
