"""What do the measurements say of the model and of the plans?"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.planner.measure import PLACES

GOOD_RANK = 0.9
GOOD_RATIO = 1.15


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values share their mean rank."""
    return float(np.corrcoef(_ranks(left), _ranks(right))[0, 1])


def in_order(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Return which part of the pairs that are measured as far apart as `GOOD_RATIO` is predicted in the right order."""
    pairs = [
        (predicted[left] < predicted[right]) == (measured[left] < measured[right])
        for left, right in itertools.combinations(range(len(measured)), 2)
        if max(measured[left], measured[right]) > GOOD_RATIO * min(measured[left], measured[right])
    ]
    return sum(pairs) / len(pairs) if pairs else math.nan


def _ranks(values: Sequence[float]) -> np.ndarray[Any, Any]:
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def written(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = results["lines"]
    spots = list(dict.fromkeys(line["spot"] for line in lines))
    parts = [
        "# The planner's predictions and plans, measured",
        "",
        *(
            f"{number}. `{run['command']}`, {run['date']}, {run['seconds']:.0f} s"
            for number, run in enumerate(results["runs"], 1)
        ),
        "",
        f"{_named(results['machine'])}. {_named(results['versions'])}.",
        "",
        *(f"- {name}: {text}" for name, text in results["data"].items()),
        "",
        *_settings(results["runs"]),
        "",
        (
            f"{len(lines)} layouts in all. A time is the mean of calls at the same places of each layout: reads at up to "
            f"{PLACES} places in some turns (`--repeats`), and all writes that fill the array, in `--fills` arrays; of each call "
            "the least of its turns, in which all layouts are visited in random order. *Spread* says how far the median "
            "of the turns is above the least, for the median layout. What is predicted is predicted of these same calls. All layouts "
            "are zstd-3 but the plan's, whose codec the planner chose. What was written or read before may be in the "
            "operating system's cache."
        ),
        "",
        "## Rank correlation of predicted and measured time",
        "",
        (
            f"Over all layouts of an access, and over all layouts and accesses of an array; the goal is {GOOD_RANK}. *Pairs in order*: of each two layouts whose measured times are "
            f"more than {GOOD_RATIO - 1:.0%} apart, how many are predicted in the right order; layouts nearer to one another than that "
            "are often nearer than the spread."
        ),
        "",
    ]
    for spot in spots:
        parts += _correlations([line for line in lines if line["spot"] == spot], spot)
    parts += [
        "## The planned layout beside the best measured one, zarr's and dask's",
        "",
        f"Measured mean time of all accesses, each as often as the others, as planned for. The goal is {GOOD_RATIO} times the best.",
        "",
        "| spot | array | plan | best measured | plan / best | zarr / plan | dask / plan |",
        "| --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    measured: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        measured.setdefault((line["spot"], line["case"]), []).append(line)
    parts += [_plan_row(spot, case, here) for (spot, case), here in measured.items()]
    parts += ["", "## All measurements", "", "Milliseconds, predicted / measured.", ""]
    for (spot, case), here in measured.items():
        parts += _all_rows(spot, case, here)
    return "\n".join(parts).rstrip() + "\n"


def _settings(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Say what the probe and the calibration of each run found."""
    texts = [
        f"- {spot} in run {number}: {text}"
        for number, run in enumerate(runs, 1)
        for spot, text in run["spots"].items()
    ]
    for number, run in enumerate(runs, 1):
        prices = [
            f"{name.removesuffix('_seconds').replace('_', ' ')} {1e9 * price:.3g}"
            for name, price in run["prices"].items()
        ]
        texts.append(
            f"- this machine in run {number}, by the calibration: threads {run['speedup']:.2f} times as fast as one; ns: {', '.join(prices)}"
        )
    return texts


def _named(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _correlations(lines: list[dict[str, Any]], spot: str) -> list[str]:
    pairs = [(line["predicted"][name], line["measured"][name]) for line in lines for name in line["measured"]]
    rows = [f"**{spot}**, all accesses and arrays together: {spearman(*zip(*pairs, strict=True)):.3f}", ""]
    rows += [
        "| array | access | layouts | rank correlation | pairs in order | measured / predicted, median | slowest / fastest | spread |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in dict.fromkeys(line["case"] for line in lines):
        here = [line for line in lines if line["case"] == case]
        together = [
            (line["predicted"][name], line["measured"][name]) for line in here for name in line["measured"]
        ]
        rows.append(
            f"| **{case}** | all together | {len(here)} | **{spearman(*zip(*together, strict=True)):.3f}** | "
            f"{in_order(*zip(*together, strict=True)):.0%} | "
            f"{np.median([took / told for told, took in together]):.2f} | | |"
        )
        for name in here[0]["predicted"]:
            predicted = [line["predicted"][name] for line in here]
            measured = [line["measured"][name] for line in here]
            spread = np.median([line["spread"][name] for line in here])
            ratio = np.median(np.asarray(measured) / np.asarray(predicted))
            rows.append(
                f"| {case} | {name} | {len(here)} | {spearman(predicted, measured):.3f} | "
                f"{in_order(predicted, measured):.0%} | {ratio:.2f} | "
                f"{max(measured) / min(measured):.2f} | {spread:.0%} |"
            )
    return [*rows, ""]


def _plan_row(spot: str, case: str, lines: list[dict[str, Any]]) -> str:
    def mean(line: dict[str, Any]) -> float:
        return float(np.mean(list(line["measured"].values())))

    by_name = {line["name"]: line for line in lines if line["name"]}
    plan, best = by_name["plan"], min(lines, key=mean)
    others = [mean(by_name[name]) / mean(plan) if name in by_name else math.nan for name in ("zarr", "dask")]
    return (
        f"| {spot} | {case} | {_spelled(plan)} | {_spelled(best)} | {mean(plan) / mean(best):.2f} | "
        + " | ".join(f"{ratio:.2f}" for ratio in others)
        + " |"
    )


def _spelled(line: dict[str, Any]) -> str:
    name = f"{line['name']} " if line["name"] not in ("", "plan") else ""
    return f"{name}{'x'.join(map(str, line['chunks']))}, {line['codec']}"


def _all_rows(spot: str, case: str, lines: list[dict[str, Any]]) -> list[str]:
    names = list(lines[0]["predicted"])
    rows = [
        f"### {case} on {spot}",
        "",
        f"| layout | {' | '.join(names)} |",
        f"| --- |{' ---: |' * len(names)}",
    ]
    for line in lines:
        cells = [
            f"{1e3 * line['predicted'][name]:.1f} / {1e3 * line['measured'][name]:.1f}" for name in names
        ]
        label = "**plan** " if line["name"] == "plan" else ""
        rows.append(f"| {label}{_spelled(line)} | {' | '.join(cells)} |")
    return [*rows, ""]
