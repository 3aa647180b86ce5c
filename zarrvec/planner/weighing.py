"""What do all accesses of a plan come to under a layout, and which of two layouts is better?

Pure. Source: ``specs/planner.md``, section "Objectives".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from zarrvec.engine.staging import IN_FLIGHT
from zarrvec.faces.pipeline import SLICE_BYTES
from zarrvec.planner.access import Pattern
from zarrvec.planner.cost import GIGABYTE, dollars_of, seconds_of
from zarrvec.planner.counting import count
from zarrvec.planner.estimating import estimate
from zarrvec.planner.layout import Layout, Work
from zarrvec.planner.placing import packs_of_write
from zarrvec.planner.records import AccessFigures, Figures
from zarrvec.planner.targets import Machine, Target

Objective: TypeAlias = Literal["time", "cost", "balanced"]
OBJECTIVES: Final = ("time", "cost", "balanced")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """By what layouts are weighed."""

    patterns: tuple[Pattern, ...]
    target: Target
    machine: Machine
    objective: Objective
    calls_per_month: float
    seed: int

    def quick(self, layout: Layout) -> tuple[float, ...]:
        """Return a score by formulas alone: the less the better."""
        works = [estimate(layout, pattern) for pattern in self.patterns]
        seconds = sum(
            pattern.weight * seconds_of(work, layout, self.target, self.machine).total
            for pattern, work in zip(self.patterns, works, strict=True)
        )
        return self._score(seconds, self._dollars(layout, works), layout)

    def score(self, figures: Figures, layout: Layout) -> tuple[float, ...]:
        """Return the score of what was counted."""
        return self._score(figures.seconds, figures.dollars_per_month, layout)

    def _score(self, seconds: float, dollars: float, layout: Layout) -> tuple[float, ...]:
        chunks = float(layout.chunk_count)
        if self.objective == "cost":
            return dollars, seconds, chunks
        if self.objective == "balanced" and dollars > 0:
            return math.sqrt(seconds * dollars), seconds, chunks
        return seconds, dollars, chunks

    def _dollars(self, layout: Layout, works: Sequence[Work]) -> float:
        stored = layout.chunk_count * layout.value_bytes
        requests = sum(
            pattern.weight * dollars_of(work, self.target)
            for pattern, work in zip(self.patterns, works, strict=True)
        )
        return stored / GIGABYTE * self.target.gigabyte_month_dollars + self.calls_per_month * requests

    def figures(self, layout: Layout) -> Figures:
        """Return what is predicted of a layout."""
        works = [count(layout, pattern, seed=self.seed) for pattern in self.patterns]
        accesses = tuple(
            self._access(layout, pattern, work) for pattern, work in zip(self.patterns, works, strict=True)
        )
        return Figures(
            chunk_bytes=layout.chunk_bytes,
            chunks=layout.chunk_count,
            objects=objects_of(layout),
            stored_bytes=layout.chunk_count * layout.value_bytes,
            seconds=sum(access.weight * access.seconds for access in accesses),
            requests=sum(access.weight * (access.gets + access.puts) for access in accesses),
            bytes=sum(access.weight * (access.get_bytes + access.put_bytes) for access in accesses),
            memory_bytes=max(memory_of(layout, work, self.machine) for work in works),
            dollars_per_month=self._dollars(layout, works),
            accesses=accesses,
        )

    def _access(self, layout: Layout, pattern: Pattern, work: Work) -> AccessFigures:
        seconds = seconds_of(work, layout, self.target, self.machine)
        return AccessFigures(
            name=pattern.name,
            kind=pattern.kind,
            weight=pattern.weight,
            gets=work.gets,
            get_bytes=work.get_bytes,
            puts=work.puts,
            put_bytes=work.put_bytes,
            chunks=work.chunks_decoded if pattern.kind == "read" else work.chunks_encoded,
            read_amplification=work.chunks_decoded * layout.chunk_bytes / work.wanted_bytes,
            rewrite_amplification=work.chunks_encoded * layout.chunk_bytes / work.wanted_bytes,
            fetch_seconds=seconds.fetch,
            decode_seconds=seconds.decode,
            encode_seconds=seconds.encode,
            store_seconds=seconds.store,
            seconds=seconds.total,
            dollars=dollars_of(work, self.target),
        )


def memory_of(layout: Layout, work: Work, machine: Machine) -> int:
    """Return the bytes that a call needs besides its result: what is on its way, and chunks being decoded or encoded.

    Examples
    --------
    >>> layout = Layout(shape=(1000, 1000), itemsize=1, chunks=(100, 1000))
    >>> memory_of(layout, Work(get_bytes=1e6, chunks_decoded=10), Machine(threads=2))
    1200000
    """
    chunks = max(work.chunks_decoded, work.chunks_encoded)
    coded = min(machine.threads, max(1.0, chunks)) * layout.chunk_bytes
    reading = min(work.get_bytes, 2 * SLICE_BYTES + layout.value_bytes)
    writing = min(work.put_bytes, SLICE_BYTES + IN_FLIGHT * layout.pack_bytes + layout.value_bytes)
    return round(coded + reading + writing)


def objects_of(layout: Layout) -> int:
    """Return how many packs the writes that fill an array leave, or objects of a plain store; metadata not counted.

    Examples
    --------
    >>> objects_of(Layout(shape=(100,), itemsize=1 << 20, chunks=(1,)))
    7
    """
    if layout.store == "plain":
        unit = layout.shards or layout.chunks
        return math.prod(-(-size // length) for size, length in zip(layout.shape, unit, strict=True))
    touched = math.prod(
        -(-min(size, length) // chunk)
        for size, length, chunk in zip(layout.shape, layout.tile, layout.chunks, strict=True)
    )
    return max(1, math.prod(layout.tiles) * packs_of_write(layout, touched))
