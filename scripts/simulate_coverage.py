"""Simulates how often the intervals hold, and prints the tables of docs/statistics.md.

    python scripts/simulate_coverage.py [--parts=cells,functionals,differences,ranks,looks] [--repetitions=2000]
    python scripts/simulate_coverage.py --quick

The generator: an image i is right under a draw d with logit P = mu + a_d + b_i + c_di, all three normal, with standard
deviations `draws`, `images` and 0.5; the truth is found by quadrature. Curves are a latent score that falls with the
level, by random walks of the draws along the nested levels. The functions are the library's own.
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from scipy import stats
from scipy.special import expit

from jaxperturb.stats import compare, curves, intervals, planning
from jaxperturb.stats.components import Crossed, Spread, cross

PARTS = ("cells", "functionals", "differences", "ranks", "looks")
SELECTED = flags.DEFINE_list("parts", list(PARTS), "What to simulate.")
REPETITIONS = flags.DEFINE_integer("repetitions", 2000, "Of each setting.", lower_bound=10)
SEED = flags.DEFINE_integer("seed", 1, "Of everything.")
QUICK = flags.DEFINE_bool("quick", False, "A few settings, 200 repetitions: a look in a minute.")
JSON = flags.DEFINE_string("json", None, "File for the figures of every setting.")

Row = dict[str, Any]

INTERACTION = 0.5  # standard deviation of c
UNIFORM = 1 << 16
CHUNK = 200_000  # outcomes at a time: what a core's cache holds
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(81)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
GRID = np.linspace(-40, 40, 16001)
RIGHT = (expit(GRID[:, None] + INTERACTION * NODES) * WEIGHTS).sum(axis=1)  # P(right) at mu + a + b
# A number e with P(e > -x) = RIGHT(x), so that an outcome is e + b > -a - mu.
NOISE = -np.interp((np.arange(UNIFORM) + 0.5) / UNIFORM, RIGHT, GRID)[::-1].astype(np.float32)


def moments(mu: float, draws: float, images: float) -> tuple[float, float, float, float]:
    """Returns the true accuracy, and the variance components of draws, images and the rest."""
    p = np.interp(mu + draws * NODES[:, None] + images * NODES, GRID, RIGHT)
    mean = WEIGHTS @ p @ WEIGHTS
    of_draws, of_images = WEIGHTS @ (p @ WEIGHTS - mean) ** 2, WEIGHTS @ (WEIGHTS @ p - mean) ** 2
    return mean, of_draws, of_images, mean * (1 - mean) - of_draws - of_images


def mu_for(p: float, draws: float, images: float) -> float:
    """Returns the mu that gives an accuracy."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if moments(middle, draws, images)[0] < p else (low, middle)
    return (low + high) / 2


def outcomes(
    rng: np.random.Generator, effects: np.ndarray, by_image: np.ndarray, noise: np.ndarray | None = None
) -> np.ndarray:
    """Returns outcomes (R, D, I) for effects of draws (R, D), mu included, and of images (R, I)."""
    shape = (*effects.shape, by_image.shape[-1])
    noise = np.take(NOISE, rng.integers(0, UNIFORM, shape, dtype=np.uint16)) if noise is None else noise.copy()
    noise += by_image[:, None, :]
    return noise > -effects[:, :, None]


def normal(rng: np.random.Generator, deviation: float, shape: tuple[int, ...], mean: float = 0.0) -> np.ndarray:
    """Returns float32 normal numbers."""
    return np.float32(mean) + np.float32(deviation) * rng.standard_normal(shape, dtype=np.float32)


def reduced(right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the accuracies of draws (R, D), and the mean squares of draws, images and the rest (R)."""
    _, draws, images = right.shape
    n = draws * images
    rows = np.count_nonzero(right, axis=2)
    per_image = right.view(np.uint8).sum(axis=1, dtype=np.uint8).astype(np.float32)
    p = rows.sum(axis=1) / n
    between_draws = (rows.astype(float) ** 2).sum(axis=1) / images - n * p * p
    between_images = np.einsum("ri,ri->r", per_image, per_image).astype(float) / draws - n * p * p
    rest = np.maximum(n * p * (1 - p) - between_draws - between_images, 0)
    return (
        rows / images,
        np.maximum(between_draws, 0) / (draws - 1),
        np.maximum(between_images, 0) / (images - 1),
        rest / ((draws - 1) * (images - 1)),
    )


def spread_of(squares: tuple[np.ndarray, np.ndarray, np.ndarray], draws: int, images: int) -> Spread:
    """Returns the library's variances from mean squares of many repetitions."""
    of_draws, of_images, rest = squares
    n = draws * images
    return Spread(of_draws / n, np.maximum(of_images - rest, 0) / n, draws - 1, images - 1)


def chunks(repetitions: int, size: int) -> Iterator[int]:
    """Yields numbers of repetitions that fit a cache and add up."""
    step = max(1, CHUNK // size)
    for start in range(0, repetitions, step):
        yield min(step, repetitions - start)


def simulate_cells(rng: np.random.Generator, repetitions: int, quick: bool) -> Iterator[Row]:
    """One accuracy: the MOVER-Wilson interval."""
    accuracies = (0.02, 0.5) if quick else (0.02, 0.1, 0.3, 0.5, 0.8, 0.95, 0.99)
    sizes = (200,) if quick else (200, 1000, 10000)
    for images, draws in sorted(itertools.product(sizes, (3, 5, 10, 20)), key=math.prod):
        for p, sa, sb in itertools.product(accuracies, (0.0, 0.1, 0.3, 1.0), (1.0, 3.0)):
            mu = mu_for(p, sa, sb)
            parts = [
                reduced(outcomes(rng, normal(rng, sa, (some, draws), mu), normal(rng, sb, (some, images))))
                for some in chunks(repetitions, draws * images)
            ]
            rows, *squares = (np.concatenate(part) for part in zip(*parts, strict=True))
            yield cell_row(p, sa, sb, mu, images, rows, tuple(squares))


def cell_row(
    p: float, sa: float, sb: float, mu: float, images: int, rows: np.ndarray, squares: tuple[np.ndarray, ...]
) -> Row:
    """Returns coverage, relative width and share of flagged repetitions of one setting."""
    draws = rows.shape[1]
    found = rows.mean(axis=1)
    width = intervals.half_widths(spread_of(squares, draws, images), intervals.Sampled.BOTH)
    low, high = intervals.wilson(found, width, images)
    truth, va, vb, ve = moments(mu, sa, sb)
    oracle = 2 * 1.96 * math.sqrt(va / draws + vb / images + ve / draws / images)
    edge = np.minimum(found, 1 - found)
    flagged = (rows.std(axis=1, ddof=1) > intervals.UNEVEN * edge) | (images * edge < intervals.FEW_IMAGES)
    true_edge = min(truth, 1 - truth)
    uneven = math.sqrt(va + ve / images) > intervals.UNEVEN * true_edge
    few = images * true_edge < intervals.FEW_IMAGES
    return {
        "setting": {"p": p, "sa": sa, "sb": sb},
        "draws": draws,
        "images": images,
        "domain": "uneven" if uneven else "few" if few else "inside",
        "coverage": float(np.mean((low <= truth) & (truth <= high))),
        "width": float(np.mean(high - low) / oracle),
        "flagged": float(flagged.mean()),
    }


LEVELS = np.array([0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0])
CHANCE, INTACT, IMAGE_SPREAD, WALK = 0.01, 0.76, 2.5, 1.5
SCORE = float(stats.norm.ppf((INTACT - CHANCE) / (1 - CHANCE)) * IMAGE_SPREAD)


def true_curve(steepness: float, sa: float) -> np.ndarray:
    """Returns the true accuracy at each of `LEVELS`."""
    spread = np.sqrt(IMAGE_SPREAD**2 + (sa**2 + WALK**2) * LEVELS)
    return CHANCE + (1 - CHANCE) * stats.norm.cdf((SCORE - steepness * LEVELS) / spread)


def draw_curve(rng: np.random.Generator, draws: int, images: int, steepness: float, sa: float) -> curves.LevelCurve:
    """Returns a simulated curve, the reference network last."""
    steps = np.sqrt(np.diff(LEVELS)).astype(np.float32)
    score = normal(rng, IMAGE_SPREAD, (images,), SCORE)
    of_draw, of_both = np.zeros(draws, np.float32), np.zeros((draws, images), np.float32)
    guess = rng.random((draws, images), dtype=np.float32) < CHANCE
    right = np.empty((len(LEVELS) + 1, draws, images), bool)
    right[0] = right[-1] = (score > 0) | (rng.random(images) < CHANCE)
    for level, step in enumerate(steps, 1):
        of_draw = of_draw + sa * step * rng.standard_normal(draws, dtype=np.float32)
        of_both += np.float32(WALK) * step * rng.standard_normal((draws, images), dtype=np.float32)
        right[level] = (of_both + (score - np.float32(steepness * LEVELS[level])) > -of_draw[:, None]) | guess
    return curves.LevelCurve(LEVELS, cross(right), CHANCE)


def simulate_functionals(rng: np.random.Generator, repetitions: int, quick: bool) -> Iterator[Row]:
    """Relative performance, area and half-life of a curve."""
    sizes = (200,) if quick else (200, 1000)
    for draws, sa, steepness, images in itertools.product((3, 5, 10, 20), (0.2, 1.0, 2.5), (12.0, 4.0), sizes):
        relative = (true_curve(steepness, sa) - CHANCE) / (true_curve(steepness, sa)[0] - CHANCE)
        at = np.eye(len(LEVELS))[4]
        truth = {
            "relative": float(relative[4]),
            "area": float(curves.trapezoid_weights(LEVELS) @ relative),
            "half_life": curves.half_life(LEVELS, relative, 1.0, 0.0),
        }
        held: dict[str, list[bool]] = {name: [] for name in truth}
        open_ended = 0
        for _ in range(repetitions):
            curve = draw_curve(rng, draws, images, steepness, sa)
            found = {
                "relative": curves.estimate(curve, curves.relative_at(curve, at)),
                "area": curves.estimate(curve, curves.area(curve)),
                "half_life": curves.half_life_estimate(curve),
            }
            open_ended += math.isinf(found["half_life"].high)
            for name, one in found.items():
                held[name].append(one.low <= truth[name] <= one.high)
        yield {
            "setting": {"sa": sa, "steepness": steepness},
            "draws": draws,
            "images": images,
            "open": open_ended / repetitions,
            **{name: float(np.mean(some)) for name, some in held.items()},
        }


def simulate_differences(rng: np.random.Generator, repetitions: int, quick: bool) -> Iterator[Row]:
    """The difference of two accuracies: draws of their own, and common draws."""
    pairs = ((0.5, 0.5), (0.02, 0.1)) if quick else ((0.5, 0.5), (0.8, 0.5), (0.95, 0.95), (0.02, 0.02), (0.02, 0.1))
    sizes = (200,) if quick else (200, 1000)
    sb = 1.5
    for (p, q), sa, draws, images in itertools.product(pairs, (0.1, 0.3, 1.0), (3, 5, 10), sizes):
        mus = mu_for(p, sa, sb), mu_for(q, sa, sb)
        held: dict[str, list[bool]] = {"own": [], "common": [], "false": []}
        for some in chunks(repetitions, 3 * draws * images):
            by_image = normal(rng, sb, (some, images))
            first, second = (normal(rng, sa, (some, draws), mu) for mu in mus)
            a, b = outcomes(rng, first, by_image), outcomes(rng, second, by_image)
            same = outcomes(rng, first + np.float32(mus[1] - mus[0]), by_image)
            for one, other, paired in zip(a, b, same, strict=True):
                total = own_difference(one, other)
                found = total.interval()
                held["own"].append(found.low <= p - q <= found.high)
                held["false"].append(total.p_value() < 0.05)
                both = cross(np.stack([one, paired]))
                found = intervals.contrast(both, float(both.means[0] - both.means[1]), np.array([1.0, -1.0]))
                held["common"].append(found.low <= p - q <= found.high)
        uneven = any(
            math.sqrt(va + ve / images) > intervals.UNEVEN * min(at, 1 - at)
            for mu, at in zip(mus, (p, q), strict=True)
            for _, va, _, ve in (moments(mu, sa, sb),)
        )
        few = images * min(p, q, 1 - p, 1 - q) < intervals.FEW_IMAGES
        yield {
            "setting": {"p": p, "q": q, "sa": sa},
            "draws": draws,
            "images": images,
            "domain": "outside" if uneven or few else "inside",
            **{name: float(np.mean(some)) for name, some in held.items()},
        }


def own_difference(first: np.ndarray, second: np.ndarray) -> compare.Total:
    """Returns the difference of two accuracies with draws of their own."""
    return compare.difference(accuracy_term(cross(first[None])), accuracy_term(cross(second[None])))


def accuracy_term(crossed: Crossed) -> compare.Term:
    """Returns the accuracy of the one column."""
    return compare.term(crossed, curves.Functional(float(crossed.means[0]), np.ones(1)))


def simulate_ranks(rng: np.random.Generator, repetitions: int, quick: bool) -> Iterator[Row]:
    """Rank intervals of eight layers, two of which are alike."""
    accuracies = np.array([0.2, 0.3, 0.4, 0.5, 0.5, 0.55, 0.6, 0.75])
    smaller, larger = ((accuracies[:, None] > accuracies).sum(axis=1), (accuracies[:, None] < accuracies).sum(axis=1))
    sb, images = 1.5, 200 if quick else 1000
    for draws, sa in itertools.product((3, 5, 10), (0.1, 0.5)):
        mus = [mu_for(p, sa, sb) for p in accuracies]
        held, widths = [], []
        for _ in range(repetitions):
            by_image = normal(rng, sb, (1, images))
            right = [outcomes(rng, normal(rng, sa, (1, draws), mu), by_image) for mu in mus]
            terms = [accuracy_term(cross(one)) for one in right]
            values = np.array([one.value for one in terms])
            ranks = compare.rank_intervals(values, compare.pairwise_p_values(terms))
            # Layers that are alike may stand in any order: all their ranks must be inside.
            held.append(bool(np.all((ranks[:, 0] <= 1 + smaller) & (ranks[:, 1] >= len(mus) - larger))))
            widths.append((ranks[:, 1] - ranks[:, 0] + 1).mean())
        yield {
            "setting": {"sa": sa},
            "draws": draws,
            "images": images,
            "coverage": float(np.mean(held)),
            "ranks": float(np.mean(widths)),
        }


def simulate_looks(rng: np.random.Generator, repetitions: int, quick: bool) -> Iterator[Row]:
    """The two-look rule: five draws, then as many as they say."""
    images, most, sb = 1000, 30, 1.0
    accuracies = (0.3,) if quick else (0.02, 0.3, 0.76, 0.95)
    for p, sa in itertools.product(accuracies, (0.03, 0.1, 0.3, 1.0)):
        mu = mu_for(p, sa, sb)
        _, va, vb, ve = moments(mu, sa, sb)
        oracle = 1.96 * math.sqrt(va / 10 + vb / images + ve / 10 / images)
        found = {factor: [] for factor in (1.15, 1.6)}
        for some in chunks(repetitions, most * images):
            right = outcomes(rng, normal(rng, sa, (some, most), mu), normal(rng, sb, (some, images)))
            for one, (factor, rows) in itertools.product(right, found.items()):
                rows.append(two_looks(one, factor * oracle, most, p))
        for factor, rows in found.items():
            held, draws, met = np.mean(rows, axis=0)
            yield {
                "setting": {"p": p, "sa": sa, "factor": factor},
                "coverage": float(held),
                "draws": float(draws),
                "met": float(met),
            }


def two_looks(right: np.ndarray, half_width: float, most: int, truth: float) -> tuple[bool, int, bool]:
    """Returns whether the final interval holds, how many draws it took, and whether it met the half-width."""
    look = planning.second_look(cross(right[None, : planning.PILOT_DRAWS]), half_width, most)
    crossed = cross(right[None, : look.draws])
    found = intervals.proportion(crossed, confidence=planning.TWO_LOOK_CONFIDENCE)
    return found.low <= truth <= found.high, look.draws, found.half_width <= 1.1 * half_width


def report_cells(rows: list[Row]) -> Iterator[str]:
    """Yields the table of single accuracies."""
    yield from head(
        "draws",
        "settings",
        "coverage: lowest",
        "mean",
        "highest",
        "within 93 to 97 %",
        "width / oracle, median",
        "flagged",
    )
    for draws, domain in itertools.product((3, 5, 10, 20), ("inside", "uneven", "few")):
        some = [row for row in rows if row["draws"] == draws and row["domain"] == domain]
        if some:
            coverage = np.array([row["coverage"] for row in some])
            inner = np.mean((coverage >= 0.93) & (coverage <= 0.97))
            width = np.median([row["width"] for row in some])
            flagged = np.mean([row["flagged"] for row in some])
            name = {"inside": "in the domain", "uneven": "uneven draws", "few": "few deciding images"}[domain]
            yield f"| {draws} | {name}: {len(some)} | {span(coverage)} | {inner:.0%} | {width:.2f} | {flagged:.0%} |"


def report_functionals(rows: list[Row]) -> Iterator[str]:
    """Yields the table of relative performance, area and half-life."""
    names = {"relative": "relative performance", "area": "area", "half_life": "half-life"}
    yield from head("draws", "number", "coverage: lowest", "mean", "highest", "open intervals")
    for draws, (key, name) in itertools.product((3, 5, 10, 20), names.items()):
        some = [row for row in rows if row["draws"] == draws]
        open_ended = f"{np.mean([row['open'] for row in some]):.0%}" if key == "half_life" else ""
        yield f"| {draws} | {name} | {span(np.array([row[key] for row in some]))} | {open_ended} |"


def report_differences(rows: list[Row]) -> Iterator[str]:
    """Yields the table of differences."""
    names = {"own": "draws of their own", "common": "common draws"}
    yield from head("draws", "settings", "kind", "coverage: lowest", "mean", "highest")
    for draws, domain, (key, name) in itertools.product((3, 5, 10), ("inside", "outside"), names.items()):
        some = [row[key] for row in rows if row["draws"] == draws and row["domain"] == domain]
        if some:
            yield f"| {draws} | {domain} the domain: {len(some)} | {name} | {span(np.array(some))} |"


def report_ranks(rows: list[Row]) -> Iterator[str]:
    """Yields the table of ranks."""
    yield from head("draws", "spread of the draws", "all eight rank intervals hold", "ranks in an interval, mean")
    for row in rows:
        yield f"| {row['draws']} | {row['setting']['sa']} | {row['coverage']:.3f} | {row['ranks']:.1f} |"


def report_looks(rows: list[Row]) -> Iterator[str]:
    """Yields the table of the two-look rule."""
    yield from head(
        "spread of the draws",
        "wanted / oracle of 10 draws",
        "coverage: lowest",
        "mean",
        "highest",
        "draws, mean",
        "met",
    )
    for sa, factor in itertools.product((0.03, 0.1, 0.3, 1.0), (1.15, 1.6)):
        some = [row for row in rows if row["setting"]["sa"] == sa and row["setting"]["factor"] == factor]
        coverage = np.array([row["coverage"] for row in some])
        draws, met = (np.mean([row[name] for row in some]) for name in ("draws", "met"))
        yield f"| {sa} | {factor} | {span(coverage)} | {draws:.1f} | {met:.0%} |"


def head(*names: str) -> Iterator[str]:
    """Yields the first two lines of a table."""
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"


def span(coverage: np.ndarray) -> str:
    """Returns lowest, mean and highest as cells of a table."""
    return f"{coverage.min():.3f} | {coverage.mean():.3f} | {coverage.max():.3f}"


def verdicts(rows: dict[str, list[Row]]) -> Iterator[str]:
    """Yields for each promise whether the simulation keeps it."""
    for part, draws, low, high, width in (
        *(("cells", draws, 0.925, 0.975, 1.10 if draws == 10 else math.inf) for draws in (10, 20)),
        ("cells", 5, 0.93, 0.98, 1.30),
        ("cells", 3, 0.93, 0.99, math.inf),
    ):
        some = [row for row in rows.get(part, ()) if row["draws"] == draws and row["domain"] == "inside"]
        if some:
            off = [row for row in some if not low <= row["coverage"] <= high]
            kept = not off and np.median([row["width"] for row in some]) <= width
            yield verdict(f"{draws} draws, in the domain: {low:.1%} to {high:.1%}", kept, off)
    outside = [row for row in rows.get("cells", ()) if row["domain"] != "inside"]
    yield from _promise("outside the domain: at least 85 %", outside, "coverage", 0.85, 1)
    enough = [row for row in rows.get("functionals", ()) if row["draws"] >= 5]
    for key in ("relative", "area", "half_life"):
        yield from _promise(f"{key}, 5 draws or more: 92 to 98 %", enough, key, 0.92, 0.98)
    inside = [row for row in rows.get("differences", ()) if row["domain"] == "inside"]
    for key in ("own", "common"):
        yield from _promise(f"differences, {key} draws, in the domain: 93 to 98 %", inside, key, 0.93, 0.98)
    yield from _promise("ranks: at least 93 %", rows.get("ranks", []), "coverage", 0.93, 1)
    looks = rows.get("looks", [])
    tame, wild = ([row for row in looks if (row["setting"]["sa"] < 1) == calm] for calm in (True, False))
    yield from _promise("two looks: 93 to 98 %", tame, "coverage", 0.93, 0.98)
    yield from _promise("two looks, wild draws: at least 91 %", wild, "coverage", 0.91, 1)


def _promise(name: str, rows: list[Row], key: str, low: float, high: float) -> Iterator[str]:
    if rows:
        yield verdict(name, True, [row for row in rows if not low <= row[key] <= high])


def verdict(name: str, kept: bool, off: list[Row]) -> str:
    """Returns one line on one promise, with what breaks it."""
    return f"- {name}: {'kept' if kept and not off else f'NOT kept ({len(off)} settings: {off[:4]})'}"


SIMULATIONS: dict[str, tuple[Callable[..., Iterator[Row]], Callable[[list[Row]], Iterator[str]]]] = {
    "cells": (simulate_cells, report_cells),
    "functionals": (simulate_functionals, report_functionals),
    "differences": (simulate_differences, report_differences),
    "ranks": (simulate_ranks, report_ranks),
    "looks": (simulate_looks, report_looks),
}


def simulate(parts: list[str], repetitions: int, seed: int, quick: bool) -> Iterator[tuple[str, list[Row]]]:
    """Yields each part with the rows of its settings; a part has random numbers of its own."""
    for part in parts:
        rng = np.random.Generator(np.random.SFC64([seed, PARTS.index(part)]))
        yield part, list(SIMULATIONS[part][0](rng, repetitions, quick))


def main(_: object) -> None:
    repetitions = 200 if QUICK.value else REPETITIONS.value
    started, rows = time.monotonic(), {}
    for part, found in simulate(SELECTED.value, repetitions, SEED.value, QUICK.value):
        rows[part] = found
        print(f"\n{part}: {len(found)} settings, {repetitions} repetitions each\n", flush=True)
        print("\n".join(SIMULATIONS[part][1](found)), flush=True)
        print(f"\n({time.monotonic() - started:.0f} s)", flush=True)
        if JSON.value:
            Path(JSON.value).write_text(json.dumps(rows), encoding="utf-8")
    print("\n" + "\n".join(verdicts(rows)))


if __name__ == "__main__":
    app.run(main)
