"""Which chunk shapes are tried, and which of them are best?

Pure and, for one seed, always the same. Source: ``specs/planner.md``, section "Search".
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from zarrvec.planner.access import Pattern

Chunks: TypeAlias = tuple[int, ...]
Score: TypeAlias = tuple[float, ...]

EXHAUSTIVE: Final = 2_500
"""Up to so many shapes are all tried."""
STARTS: Final = 4
"""Descents from random shapes, besides those that are given."""
SWEEPS: Final = 6
_FRACTIONS: Final = 12
_MULTIPLES: Final = (2, 3, 4, 5, 8, 10, 16, 32, 64, 128, 256, 512, 1024)
_LENGTHS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The chunk shapes that are allowed."""

    shape: tuple[int, ...]
    itemsize: int
    lengths: tuple[tuple[int, ...], ...]
    """For each axis the lengths that are tried, ascending."""
    max_chunk_bytes: int

    def allows(self, chunks: Chunks) -> bool:
        """Return whether a shape is small enough."""
        return math.prod(chunks) * self.itemsize <= self.max_chunk_bytes


def lengths_of(
    size: int, patterns: Iterable[Pattern], axis: int, extra: Iterable[int] = ()
) -> tuple[int, ...]:
    """Return the chunk lengths that are tried along an axis: of the accesses, divisors, fractions, powers of two.

    Examples
    --------
    >>> lengths_of(12, [], 0)
    (1, 2, 3, 4, 6, 8, 12)
    """
    asked = {1, size, *(length for length in extra if 1 <= length <= size)}
    for pattern in patterns:
        length = pattern.lengths[axis]
        asked |= {length, *(length * times for times in _MULTIPLES if length * times <= size)}
        asked |= {-(-length // part) for part in range(2, 5)}
    asked |= {-(-size // part) for part in range(2, _FRACTIONS + 1)}
    others = (
        {part for part in range(1, math.isqrt(size) + 1) if size % part == 0} if size <= 1 << 40 else set()
    )
    others |= {size // part for part in others}
    others |= {1 << power for power in range(size.bit_length()) if 1 << power <= size}
    return tuple(sorted(_thinned(asked, _LENGTHS // 2) | _thinned(others, _LENGTHS // 2)))


def best_shapes(
    space: Space, score: Callable[[Chunks], Score], *, given: Sequence[Chunks], keep: int, seed: int
) -> list[Chunks]:
    """Return the best shapes, the best first.

    Parameters
    ----------
    space
        What is allowed.
    score
        The less the better; called once for each shape.
    given
        Shapes to begin with, besides others.
    keep
        How many to return at most.
    seed
        Of the random shapes that descents begin at.
    """
    known: dict[Chunks, Score] = {}

    def scored(chunks: Chunks) -> Score:
        if chunks not in known:
            known[chunks] = score(chunks)
        return known[chunks]

    if math.prod(map(len, space.lengths)) <= EXHAUSTIVE:
        for chunks in itertools.product(*space.lengths):
            if space.allows(chunks):
                scored(chunks)
    else:
        for start in _starts(space, given, seed):
            _descend(space, start, scored)
    return heapq.nsmallest(keep, known, key=lambda chunks: (known[chunks], chunks))


def neighbours(chunks: Chunks, space: Space) -> list[Chunks]:
    """Return the allowed shapes that are about half or twice as long along one axis.

    Examples
    --------
    >>> neighbours((4, 3), Space(shape=(12, 3), itemsize=1, lengths=((1, 2, 3, 4, 6, 12), (3,)), max_chunk_bytes=99))
    [(2, 3), (6, 3)]
    """
    found = []
    for axis, lengths in enumerate(space.lengths):
        for wanted in (max(1, chunks[axis] // 2), 2 * chunks[axis]):
            near = _nearest(lengths, wanted)
            one = (*chunks[:axis], near, *chunks[axis + 1 :])
            if near != chunks[axis] and space.allows(one):
                found.append(one)
    return found


def _starts(space: Space, given: Sequence[Chunks], seed: int) -> list[Chunks]:
    rng = np.random.default_rng(seed)
    starts = [tuple(lengths[0] for lengths in space.lengths)]
    starts += [
        tuple(_nearest(lengths, chunk) for lengths, chunk in zip(space.lengths, chunks, strict=True))
        for chunks in given
    ]
    starts += [
        tuple(lengths[int(rng.integers(len(lengths)))] for lengths in space.lengths) for _ in range(STARTS)
    ]
    return list(dict.fromkeys(_shrunk(space, start) for start in starts))


def _shrunk(space: Space, chunks: Chunks) -> Chunks:
    """Return a shape that is allowed, made shorter along the longest axis as often as that takes."""
    while not space.allows(chunks):
        shorter = [(length, axis) for axis, length in enumerate(chunks) if length > space.lengths[axis][0]]
        if not shorter:
            break
        _, axis = max(shorter)
        lengths = space.lengths[axis]
        chunks = (*chunks[:axis], lengths[lengths.index(chunks[axis]) - 1], *chunks[axis + 1 :])
    return chunks


def _descend(space: Space, chunks: Chunks, scored: Callable[[Chunks], Score]) -> None:
    """Change one axis, then two at once where one is lengthened for another, while that is better."""
    best = scored(chunks)
    for _ in range(SWEEPS):
        before = best
        for axis, lengths in enumerate(space.lengths):
            for length in lengths:
                tried = (*chunks[:axis], length, *chunks[axis + 1 :])
                if space.allows(tried) and scored(tried) < best:
                    best, chunks = scored(tried), tried
        for tried in _exchanged(space, chunks):
            if space.allows(tried) and scored(tried) < best:
                best, chunks = scored(tried), tried
        if best == before:
            return


def _exchanged(space: Space, chunks: Chunks) -> list[Chunks]:
    """Return shapes that are a step longer along one axis and a step shorter along another."""
    places = [lengths.index(length) for lengths, length in zip(space.lengths, chunks, strict=True)]
    result = []
    for longer, shorter in itertools.permutations(range(len(chunks)), 2):
        if places[longer] + 1 < len(space.lengths[longer]) and places[shorter]:
            tried = list(chunks)
            tried[longer] = space.lengths[longer][places[longer] + 1]
            tried[shorter] = space.lengths[shorter][places[shorter] - 1]
            result.append(tuple(tried))
    return result


def _nearest(lengths: Sequence[int], wanted: int) -> int:
    return min(lengths, key=lambda length: (abs(math.log(length / wanted)), length))


def _thinned(lengths: set[int], keep: int) -> set[int]:
    """Return at most so many of some lengths, spread over their logarithms, the ends among them."""
    if len(lengths) <= keep:
        return lengths
    ordered = sorted(lengths)
    low, high = math.log(ordered[0]), math.log(ordered[-1])
    return {
        _nearest(ordered, round(math.exp(low + (high - low) * step / (keep - 1)))) for step in range(keep)
    }
