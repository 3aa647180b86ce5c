"""How long do accesses of a stored array take, and what did the planner say they would?"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import zarr

import zarrvec
from benchmarks.planner.cases import Case
from zarrvec.planner.access import Pattern
from zarrvec.planner.coding import coding_of
from zarrvec.planner.counting import _places
from zarrvec.planner.layout import Layout
from zarrvec.planner.measuring import Tolerance, measure
from zarrvec.planner.naive import dask_chunks, zarr_chunks
from zarrvec.planner.planning import filling, patterns_of
from zarrvec.planner.records import Codec
from zarrvec.planner.targets import Machine, Target
from zarrvec.planner.weighing import Scales
from zarrvec.testing.s3server import S3Bucket

CODEC = "zstd-3"
"""Of all layouts but the planned one, which has what the planner chose."""
SAMPLE_BYTES = 16 << 20


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
    """Median seconds of each access."""


def measured_lines(case: Case, spot: Spot, target: Target, *, repeats: int, layouts: int) -> list[Line]:
    """Store a case in each of its layouts, and time its accesses in turns."""
    shape, dtype = case.data.shape, case.data.dtype
    sample = case.data[tuple(slice(length) for length in _sample_shape(case))]
    plan = zarrvec.plan(shape, dtype, reads=case.reads, writes=[case.write], sample=sample, target=target)
    chosen = {"zarr": zarr_chunks(shape, dtype), "dask": dask_chunks(shape, dtype)}
    listed = [("plan", plan.chunks), *chosen.items(), *(("", chunks) for chunks in case.chunks)]
    patterns = patterns_of(shape, case.reads, [case.write], None)
    lines, arrays = [], []
    _stored(case, spot, plan.chunks, plan.codec, patterns[-1])  # what the first writes of all pay is nobody's
    for name, chunks in _distinct(listed)[:layouts]:
        codecs = measure(sample, chunks, Tolerance(), only=[CODEC]).codecs
        codec = plan.codec if name == "plan" else next(one for one in codecs if one.name == CODEC)
        array, writes = _stored(case, spot, chunks, codec, patterns[-1])
        lines.append(
            Line(
                case=case.name,
                spot=spot.name,
                name=name,
                chunks=chunks,
                codec=codec.name,
                predicted=_predicted(case, chunks, codec, patterns, target),
                measured={f"write {patterns[-1].name}": writes},
            )
        )
        arrays.append(array)
    for pattern in patterns[:-1]:
        taken: list[list[float]] = [[] for _ in lines]
        for turn in range(repeats):
            for array, times in zip(arrays, taken, strict=True):
                times.append(_timed_read(array, pattern, turn))
        for line, times in zip(lines, taken, strict=True):
            line.measured[f"read {pattern.name}"] = median(times)
    return lines


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
    case: Case, chunks: tuple[int, ...], codec: Codec, patterns: tuple[Pattern, ...], target: Target
) -> dict[str, float]:
    layout = Layout(
        shape=case.data.shape,
        itemsize=case.data.itemsize,
        chunks=chunks,
        coding=coding_of(codec),
        fill=filling(patterns),
    )
    scales = Scales(
        patterns=patterns, target=target, machine=Machine(), objective="time", calls_per_month=1, seed=0
    )
    return {f"{access.kind} {access.name}": access.seconds for access in scales.figures(layout).accesses}


def _stored(
    case: Case, spot: Spot, chunks: tuple[int, ...], codec: Codec, pattern: Pattern
) -> tuple[Any, float]:
    """Write the array by its writes; return it, opened anew, and the median seconds of a write."""
    name = f"{case.name}-{'x'.join(map(str, chunks))}-{uuid.uuid4().hex[:6]}"
    options: dict[str, Any] = {"storage_options": spot.options}
    array = zarr.create_array(
        spot.url(name),
        shape=case.data.shape,
        dtype=case.data.dtype,
        chunks=chunks,
        **codec.options(3),
        **options,
    )
    taken = []
    step = pattern.lengths[0]
    for first in range(0, len(case.data), step):
        began = time.perf_counter()
        array[first : first + step] = case.data[first : first + step]
        taken.append(time.perf_counter() - began)
    opened = zarr.open_array(spot.url(name), mode="r", **options)
    assert np.array_equal(opened[-1], case.data[-1])
    return opened, median(taken)


def _timed_read(array: Any, pattern: Pattern, turn: int) -> float:
    """Return the seconds of a read; of one turn all arrays read the same cells."""
    places = _places(pattern, turn, 1e9)
    _, spans = places[turn % len(places)]
    selection = tuple(slice(*span) if isinstance(span, tuple) else span for span in spans)
    began = time.perf_counter()
    if pattern.scattered:
        array.oindex[selection]
    else:
        array[selection]
    return time.perf_counter() - began
