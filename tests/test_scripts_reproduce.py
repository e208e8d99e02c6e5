"""The reproduction of the paper: its criteria, what it says of outcomes, and a small run of it from end to end."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_study import make_cell, make_curve, make_identity, make_study
from test_show_summary import IMAGES, store_of

from jaxperturb.engine.run import PLANES, Part
from jaxperturb.show.claims import MEASURES, UNCHECKED, Number, Verdict
from jaxperturb.show.published import published
from jaxperturb.show.results import results_of
from jaxperturb.stats.intervals import Estimate

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "reproduce_cheney2017.py"
LAYERS = published("AlexNet").layers


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("reproduce_cheney2017", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["reproduce_cheney2017"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reproduce_cheney2017"]


def part(text, level, draw, layer, share, shortcut=""):
    outcomes = np.zeros((len(PLANES), IMAGES), bool)
    outcomes[:2] = np.arange(IMAGES) < round(share * IMAGES)
    return Part(make_cell(level, draw, layer, text), 0, IMAGES, outcomes, 7, 6, shortcut)


def study_of(shares, outputs=10, draws=5):
    """A study of an AlexNet's layers, right in 0.9 of the images, and in so many (by layer, or 0.85) at level 0.7."""
    parts, texts = [], ("synapse_knockout", "node_knockout", "gaussian_noise")
    for text in texts:
        for layer in LAYERS:
            parts.append(part(text, "0", 0, layer, 0.9, shortcut="intact"))
            for draw, offset in enumerate(np.linspace(-0.02, 0.02, draws)):
                parts.append(part(text, "0.7", draw, layer, shares.get(layer, 0.85) + offset))
                parts.append(part(text, "1", draw, layer, 0.1))
    study = make_study(
        network="net-of-tests",
        layers=LAYERS,
        targets=LAYERS,
        perturbations=tuple(make_curve(text, ("0", "0.7", "1")) for text in texts),
        images=IMAGES,
        draws=draws,
        identity=make_identity(outputs=outputs),
    )
    return results_of(store_of(parts, study))


def test_every_criterion_can_be_measured_and_names_a_role(script):
    names = [criterion.name for criterion in script.CRITERIA]
    assert len(set(names)) == len(names)
    for criterion in script.CRITERIA:
        assert criterion.measure in MEASURES
        assert criterion.network in script.ROLES
        assert criterion.perturbation in script.PERTURBATIONS
        assert criterion.side in ("below", "above")
        assert criterion.against in ("", *script.ROLES, *script.PERTURBATIONS)
        assert (criterion.measure in ("steeper", "sturdier")) == bool(criterion.against)


def test_the_papers_bounds_stand_in_the_criteria(script):
    found = {criterion.name: (criterion.side, criterion.bound, criterion.level) for criterion in script.CRITERIA}
    assert found["top layers hold out"] == ("below", 0.30, 0.7)
    assert found["first layer near chance"] == ("below", 0.10, 0.7)
    assert found["lower layers more fragile"][:2] == ("above", 0.0)
    assert found["VGG less affected"][:2] == ("above", 0.0)


def test_sentences_are_told_with_their_numbers(script):
    outcomes = {one.verdict.criterion.name: one for one in script.outcomes_of([study_of({"conv1": 0.1, "conv2": 0.4})])}
    assert outcomes["top layers hold out"].verdict.verdict == "holds"
    assert outcomes["first layer near chance"].verdict.verdict == "holds"
    assert outcomes["first layer hit hardest"].verdict.verdict == "holds"
    assert outcomes["lower layers more fragile: noise"].verdict.verdict == "holds"
    assert outcomes["noise less significant"].verdict.verdict == "cannot be told"  # both are made alike here
    assert outcomes["VGG less affected"].verdict.verdict == UNCHECKED
    text = "\n".join(script.lines_of(outcomes["top layers hold out"]))
    assert "top layers hold out: HOLDS" in text
    assert "conv4: 0.056 (" in text  # 1 - 0.85 / 0.9
    assert "the real AlexNet, by published means: conv4 0.191" in text
    assert "there is no VGG" in "\n".join(script.lines_of(outcomes["VGG less affected"]))


def test_two_networks_are_held_against_each_other(script):
    weak, strong = study_of({"conv1": 0.1, "conv2": 0.1}), study_of({})
    outcomes = {one.verdict.criterion.name: one.verdict for one in script.outcomes_of([weak, strong])}
    assert outcomes["VGG less affected"].verdict == "holds"
    (number,) = outcomes["VGG less affected"].numbers
    # Area 0.35 + 0.5 (p - 0.1) / 0.8; two of five layers lose 0.75 of accuracy.
    assert number.found.value == pytest.approx(2 / 5 * 0.5 * 0.75 / 0.8, abs=0.01)
    turned = {one.verdict.criterion.name: one.verdict for one in script.outcomes_of([strong, weak])}
    assert turned["VGG less affected: units"].verdict == "does not hold"


def test_published_numbers_are_compared_where_the_network_is_the_real_one(script):
    assert script.comparisons([study_of({})]) == {}
    ((network, table),) = script.comparisons([study_of({}, outputs=1000)]).items()
    assert network == "AlexNet"
    assert len(table) == 2 * len(LAYERS) * 3  # levels 0, 0.7 and 1, of knockouts alone
    text = script.comparison_text(network, table)
    agreeing = int(table["agrees"].sum())
    assert f"{agreeing} of {len(table)} agree" in text
    assert text.count("published ") - 1 == len(table) - agreeing
    assert re.search(r"synapse_knockout of conv1 at 0.7: 0.8\d\d \(.*\), published 0.034", text)


def test_what_has_no_interval_is_null_in_the_file(script):
    (study,) = [study_of({})]
    nothing = Estimate(0.2, float("nan"), float("inf"), flags=("doubt",))
    verdict = Verdict(script.CRITERIA[0], "cannot be told", (Number("conv4", nothing, nothing, ("beside", nothing)),))
    told = json.loads(script.as_json([study], [script.Outcome(verdict, ())], {}))
    (number,) = told["verdicts"][0]["numbers"]
    assert number == {
        **{"of": "conv4", "value": 0.2, "low": None, "high": None, "flags": ["doubt"]},
        "beside": {"beside": {"value": 0.2, "low": None, "high": None}},
    }


def run(out, *flags):
    command = [sys.executable, str(SCRIPT), "--weights=alexnet-digits", "--dataset=digits", f"--out={out}", *flags]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.once
def test_a_small_run_on_the_digits_writes_everything_and_repeats_itself(tmp_path):
    out = tmp_path / "out"
    done = run(out, "--images=40", "--draws=2")
    assert done.returncode == 0, done.stderr
    assert "alexnet-digits: digits test, 40 images, 2 draws, seed 0, top-1 accuracy (chance 0.1)" in done.stdout
    assert "VGG less affected: NOT CHECKED (there is no VGG)" in done.stdout
    told = json.loads((out / "verdicts.json").read_text())
    assert [one["name"] for one in told["verdicts"]][:2] == ["top layers hold out", "first layer near chance"]
    page = (out / "verdicts.md").read_text()
    assert page.count("\n| ") == 1 + 1 + len(told["verdicts"])
    for stem in ("synapse_knockout", "node_knockout", "gaussian_noise", "sentences"):
        with Image.open(out / "figures" / f"{stem}.png") as picture:
            assert min(picture.size) > 500
        assert (out / "figures" / f"{stem}.pdf").is_file()
    again = run(out, "--images=40", "--draws=2")
    assert again.stdout == done.stdout
    assert "0 parts written" in again.stderr or "parts written" not in again.stderr


def test_mistakes_give_one_line(tmp_path):
    done = run(tmp_path / "out", "--images=40", "--dataset=digit")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("reproduce_cheney2017: ")
    assert "Traceback" not in done.stderr
