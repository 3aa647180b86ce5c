"""How long do accesses of a stored array take, and what did the planner say they would?"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr

import zarrvec
from benchmarks.planner.cases import Case
from zarrvec.planner.access import Pattern
from zarrvec.planner.coding import coding_of
from zarrvec.planner.cost import seconds_of
from zarrvec.planner.counting import _places, count_call
from zarrvec.planner.layout import Layout
from zarrvec.planner.measuring import Tolerance, measure
from zarrvec.planner.naive import dask_chunks, zarr_chunks
from zarrvec.planner.planning import filling, patterns_of
from zarrvec.planner.records import Codec
from zarrvec.planner.targets import Machine, Target
from zarrvec.testing.s3server import S3Bucket

CODEC = "zstd-3"
"""Of all layouts but the planned one, which has what the planner chose."""
SAMPLE_BYTES = 16 << 20
PLACES = 4
"""Where reads begin; all of them, if there are so few."""

Call: TypeAlias = tuple[int, list[Any]]
"""Which of the writes that fill the array, or -1; the cells along each axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Where arrays are stored."""

    name: str
    bucket: S3Bucket | None = None
    folder: Path | None = None

    def url(self, name: str) -> str:
        if self.bucket is not None:
            return f"zarrvec::{self.bucket.url}/{name}"
        return f"zarrvec://{self.folder}/{name}"

    @property
    def options(self) -> dict[str, Any]:
        ours = {"zarrvec": {"max_staleness": 600}}
        return ours if self.bucket is None else {"s3": self.bucket.storage_options, **ours}


@dataclass(slots=True, kw_only=True)
class Line:
    """A layout of an array at a spot."""

    case: str
    spot: str
    name: str
    """``plan``, ``zarr``, ``dask``, or empty."""
    chunks: tuple[int, ...]
    codec: str
    predicted: dict[str, float]
    """Seconds of each access."""
    measured: dict[str, float] = field(default_factory=dict)
    """Seconds of each access: mean of its calls, of each the least of its turns."""
    spread: dict[str, float] = field(default_factory=dict)
    """By what part the median of the turns is above that."""


def measured_lines(
    case: Case, spot: Spot, target: Target, machine: Machine, *, repeats: int, fills: int, layouts: int
) -> list[Line]:
    """Store a case in each of its layouts, and time its accesses in turns."""
    shape, dtype = case.data.shape, case.data.dtype
    sample = case.data[tuple(slice(length) for length in _sample_shape(case))]
    plan = zarrvec.plan(
        shape, dtype, reads=case.reads, writes=[case.write], sample=sample, target=target, machine=machine
    )
    chosen = {"zarr": zarr_chunks(shape, dtype), "dask": dask_chunks(shape, dtype)}
    listed = [("plan", plan.chunks), *chosen.items(), *(("", chunks) for chunks in case.chunks)]
    patterns = patterns_of(shape, case.reads, [case.write], None)
    calls = [_calls_of(pattern) for pattern in patterns]
    lines, codecs = [], []
    for name, chunks in _distinct(listed)[:layouts]:
        wanted = plan.codec.name if name == "plan" else CODEC
        measured = measure(sample, chunks, Tolerance(), only=[wanted]).codecs
        codecs.append(next(one for one in measured if one.name == wanted))
        layout = Layout(
            shape=shape,
            itemsize=dtype.itemsize,
            chunks=chunks,
            coding=coding_of(codecs[-1]),
            fill=filling(patterns),
        )
        predicted = {
            f"{pattern.kind} {pattern.name}": _predicted(layout, pattern, some, target, machine)
            for pattern, some in zip(patterns, calls, strict=True)
        }
        lines.append(
            Line(
                case=case.name,
                spot=spot.name,
                name=name,
                chunks=chunks,
                codec=wanted,
                predicted=predicted,
            )
        )
    _filled(
        case, spot, lines[:1], codecs[:1], calls[-1][:1], 0
    )  # what the first writes of all pay is nobody's
    filled = [_filled(case, spot, lines, codecs, calls[-1], turn) for turn in range(fills)]
    _keep(lines, f"write {patterns[-1].name}", [times for _, times in filled])
    arrays = [zarr.open_array(url, mode="r", storage_options=spot.options) for url in filled[0][0]]
    for array in arrays:
        assert np.array_equal(array[-1], case.data[-1])
    for pattern, some in zip(patterns[:-1], calls[:-1], strict=True):
        turns = [
            [_each(arrays, partial(_timed_read, pattern=pattern, spans=spans), turn) for _, spans in some]
            for turn in range(repeats)
        ]
        _keep(lines, f"read {pattern.name}", turns)
    return lines


def _calls_of(pattern: Pattern) -> list[Call]:
    """Return the calls that are timed: all writes; reads at the same random places of each layout."""
    places = _places(pattern, 0, 1.0)
    return places if pattern.kind == "write" else places[:: -(-len(places) // PLACES)]


def _keep(lines: Sequence[Line], name: str, turns: Sequence[Sequence[Sequence[float]]]) -> None:
    """Keep the mean of all calls, of each the least of its turns, and how far they are apart: ``turns[turn][call][line]``."""
    taken = np.asarray(turns)
    for line, least, usual in zip(lines, taken.min(axis=0).T, np.median(taken, axis=0).T, strict=True):
        line.measured[name] = float(least.mean())
        line.spread[name] = float(usual.mean() / least.mean() - 1)


def _sample_shape(case: Case) -> list[int]:
    lengths = list(case.data.shape)
    while np.prod(lengths) * case.data.itemsize > SAMPLE_BYTES:
        lengths[0] = -(-lengths[0] // 2)
    return lengths


def _distinct(listed: Sequence[tuple[str, tuple[int, ...]]]) -> list[tuple[str, tuple[int, ...]]]:
    """Leave out chunks that are listed already; the plan stays beside equal ones, since its codec may differ."""
    seen: set[tuple[int, ...]] = set()
    result = []
    for name, chunks in listed:
        if name or chunks not in seen:
            result.append((name, chunks))
        seen.add(chunks)
    return result


def _predicted(
    layout: Layout, pattern: Pattern, calls: Sequence[Call], target: Target, machine: Machine
) -> float:
    """Return the mean seconds of some calls, as a plan has them of all."""
    works = [count_call(layout, pattern, spans, number=number) for number, spans in calls]
    return float(np.mean([seconds_of(work, layout, target, machine).total for work in works]))


def _filled(
    case: Case, spot: Spot, lines: Sequence[Line], codecs: Sequence[Codec], calls: Sequence[Call], turn: int
) -> tuple[list[str], list[list[float]]]:
    """Fill an array in each layout, write by write in turns; return their places and seconds, ``[call][line]``."""
    options: dict[str, Any] = {"storage_options": spot.options}
    urls = [
        spot.url(f"{case.name}-{'x'.join(map(str, line.chunks))}-{uuid.uuid4().hex[:6]}") for line in lines
    ]
    arrays: list[Any] = [
        zarr.create_array(
            url,
            shape=case.data.shape,
            dtype=case.data.dtype,
            chunks=line.chunks,
            **codec.options(3),
            **options,
        )
        for url, line, codec in zip(urls, lines, codecs, strict=True)
    ]
    taken = []
    for _, spans in calls:
        values = case.data[_selection(spans)]
        taken.append(_each(arrays, partial(_timed_write, spans=spans, values=values), turn))
    return urls, taken


def _each(arrays: Sequence[Any], timed: Callable[[Any], float], turn: int) -> list[float]:
    """Return the seconds of each array, visited in an order of this turn: what one leaves in caches is no other's for good."""
    taken = [0.0] * len(arrays)
    for place in np.random.default_rng(turn).permutation(len(arrays)):
        taken[place] = timed(arrays[place])
    return taken


def _timed_write(array: Any, spans: Sequence[Any], values: Any) -> float:
    selection = _selection(spans)
    began = time.perf_counter()
    array[selection] = values
    return time.perf_counter() - began


def _timed_read(array: Any, pattern: Pattern, spans: Sequence[Any]) -> float:
    chosen = array.oindex if pattern.scattered else array
    selection = _selection(spans)
    began = time.perf_counter()
    chosen[selection]
    return time.perf_counter() - began


def _selection(spans: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(slice(*span) if isinstance(span, tuple) else span for span in spans)
