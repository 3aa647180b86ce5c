"""How many requests and bytes does a call of an access take, counted at places where it may begin?

Pure. Exact where values have a known length and all places are tried; else a mean over a seeded sample of them.

Source: ``specs/planner.md``, section "Counting requests".
"""

import itertools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from zarrvec.format.table import CRC_BYTES
from zarrvec.planner.access import Pattern
from zarrvec.planner.estimating import estimate
from zarrvec.planner.layout import Layout, Work
from zarrvec.planner.placing import Places, Reads, packs_of_write, places_of, reads_of

Int64 = npt.NDArray[np.int64]
Span = tuple[int, int]

ALL_PLACES: Final = 64
"""Up to so many places where a call may begin are all tried, if they touch no more chunks than `ALL_CHUNKS` together."""
ALL_CHUNKS: Final = 10_000
SOME_PLACES: Final = 12
SOME_CHUNKS: Final = 4_000
"""Some places are tried while they touch about so many chunks together, at least `FEWEST_PLACES`."""
FEWEST_PLACES: Final = 3
CHUNK_LIMIT: Final = 500_000
"""A call that touches more chunks is estimated by formulas."""
PACK_OVERHEAD_BYTES: Final = 200
ENTRY_OVERHEAD_BYTES: Final = 8
COMMIT_BYTES: Final = 1000


def count(layout: Layout, pattern: Pattern, *, seed: int = 0) -> Work:
    """Return the mean work of a call.

    Examples
    --------
    >>> from zarrvec.planner.access import Access, resolve
    >>> layout = Layout(shape=(100, 1024), itemsize=4, chunks=(1, 1024))
    >>> work = count(layout, resolve(Access("read", (10, None)), layout.shape))
    >>> work.gets, work.get_bytes, work.chunks_decoded
    (1.0, 41000.0, 10.0)
    """
    rough = estimate(layout, pattern)
    if max(rough.chunks_decoded, rough.chunks_encoded) > CHUNK_LIMIT:
        return rough
    spans = _places(pattern, seed, max(rough.chunks_decoded, rough.chunks_encoded))
    total = Work()
    for number, span in spans:
        total = total.plus(count_call(layout, pattern, span, number=number), times=1 / len(spans))
    return total


def count_call(layout: Layout, pattern: Pattern, spans: Sequence[Int64 | Span], *, number: int = -1) -> Work:
    """Return the work of one call.

    Parameters
    ----------
    layout
        Filled, unless the call is one of the writes that fill it: then by those before it.
    pattern
        What the call is one of.
    spans
        For each axis the first cell and the one behind the last; along one axis perhaps the cells themselves.
    number
        Which of the writes that fill the array it is; -1 if it is none.
    """
    index = tuple(
        np.arange(span[0] // chunk, (span[1] - 1) // chunk + 1, dtype=np.int64)
        if isinstance(span, tuple)
        else np.unique(span // chunk)
        for span, chunk in zip(spans, layout.chunks, strict=True)
    )
    touched = math.prod(map(len, index))
    cells = math.prod(span[1] - span[0] if isinstance(span, tuple) else len(span) for span in spans)
    wanted = cells * layout.itemsize
    runs = layout.runs(pattern, cells)
    if pattern.kind == "read":
        reads = _reads(layout, index)
        return Work(
            gets=reads.requests,
            get_bytes=reads.bytes,
            chunks_decoded=touched,
            wanted_bytes=wanted,
            runs=runs,
            picked_cells=cells if pattern.scattered else 0,
            picked_lines=len(index[pattern.axis]) if pattern.scattered else 0,
        )
    partial = ~_complete(layout, spans, index)
    there = partial & _written_before(layout, index, number) if number >= 0 else partial
    old = int(there.sum())
    puts, put_bytes = _puts(layout, index, touched)
    if layout.store == "plain":
        units = _units(layout, index)
        asked = _partial_units(layout, spans) if layout.shards else int(partial.sum())
        found = asked if layout.shards else old
        size = _unit_bytes(layout)
        return Work(
            gets=asked,
            get_bytes=found * size,
            puts=units,
            put_bytes=units * size,
            chunks_decoded=old,
            chunks_encoded=touched,
            wanted_bytes=wanted,
            runs=runs,
        )
    reads = Reads(0, 0)
    if old:
        places = places_of(layout, index, before=number if number >= 0 else None)
        keep = there.ravel()
        reads = reads_of(layout, Places(pack=places.pack[keep], offset=places.offset[keep]))
    return Work(
        gets=reads.requests,
        get_bytes=reads.bytes,
        puts=puts,
        put_bytes=put_bytes,
        chunks_decoded=old,
        chunks_encoded=touched,
        wanted_bytes=wanted,
        runs=runs,
    )


def _reads(layout: Layout, index: Sequence[Int64]) -> Reads:
    touched = math.prod(map(len, index))
    if layout.store == "zarrvec":
        return reads_of(layout, places_of(layout, index))
    if layout.shards is None:
        return Reads(touched, touched * layout.value_bytes)
    shards = _units(layout, index)
    inner = _inner(layout)
    index_bytes = 16 * inner + CRC_BYTES
    if touched == shards * inner:
        return Reads(shards, shards * (inner * layout.value_bytes + index_bytes))
    return Reads(shards + touched, shards * index_bytes + touched * layout.value_bytes)


def _puts(layout: Layout, index: Sequence[Int64], touched: int) -> tuple[int, int]:
    """Return the requests that write, and their bytes."""
    if layout.store == "plain":
        units = _units(layout, index)
        return units, units * _unit_bytes(layout)
    packs = packs_of_write(layout, touched)
    size = touched * (layout.value_bytes + CRC_BYTES + ENTRY_OVERHEAD_BYTES)
    return packs + 1, size + packs * PACK_OVERHEAD_BYTES + COMMIT_BYTES


def _inner(layout: Layout) -> int:
    """Return the chunks of one shard."""
    assert layout.shards is not None
    return math.prod(shard // chunk for shard, chunk in zip(layout.shards, layout.chunks, strict=True))


def _unit_bytes(layout: Layout) -> int:
    """Return the bytes of an object of a plain store."""
    if layout.shards is None:
        return layout.value_bytes
    return _inner(layout) * (layout.value_bytes + 16) + CRC_BYTES


def _units(layout: Layout, index: Sequence[Int64]) -> int:
    """Return how many objects of a plain store some chunks are in."""
    if layout.shards is None:
        return math.prod(map(len, index))
    return math.prod(
        len(np.unique(along * chunk // shard))
        for along, chunk, shard in zip(index, layout.chunks, layout.shards, strict=True)
    )


def _partial_units(layout: Layout, spans: Sequence[Int64 | Span]) -> int:
    """Return how many shards a write changes in part."""
    assert layout.shards is not None
    whole = layout.with_chunks(layout.shards)
    index = tuple(
        np.arange(span[0] // shard, (span[1] - 1) // shard + 1, dtype=np.int64)
        if isinstance(span, tuple)
        else np.unique(span // shard)
        for span, shard in zip(spans, layout.shards, strict=True)
    )
    return int((~_complete(whole, spans, index)).sum())


def _complete(layout: Layout, spans: Sequence[Int64 | Span], index: Sequence[Int64]) -> npt.NDArray[np.bool_]:
    """Return which chunks are written whole, as zarr tells it: up to the end of the array."""
    result = np.ones((1,) * len(index), dtype=bool)
    for axis, (span, along, chunk, size) in enumerate(
        zip(spans, index, layout.chunks, layout.shape, strict=True)
    ):
        if isinstance(span, tuple):
            whole = (along * chunk >= span[0]) & (np.minimum((along + 1) * chunk, size) <= span[1])
        else:
            whole = np.full(len(along), chunk == 1)
        result = result & whole.reshape([-1 if at == axis else 1 for at in range(len(index))])
    return np.broadcast_to(result, tuple(map(len, index)))


def _written_before(layout: Layout, index: Sequence[Int64], number: int) -> npt.NDArray[np.bool_]:
    """Return which chunks were there before a write that is one of those that fill the array."""
    first = np.zeros((1,) * len(index), dtype=np.int64)
    for axis, (along, chunk, length, tiles) in enumerate(
        zip(index, layout.chunks, layout.tile, layout.tiles, strict=True)
    ):
        shape = [-1 if at == axis else 1 for at in range(len(index))]
        first = first * tiles + (along * chunk // length).reshape(shape)
    return np.broadcast_to(first < number, tuple(map(len, index)))


def _places(pattern: Pattern, seed: int, touched: float) -> list[tuple[int, list[Int64 | Span]]]:
    """Return calls of a pattern: which of the writes that fill the array each is (or -1), and its spans.

    `touched` is about the number of chunks that one touches.
    """
    rng = np.random.default_rng(seed)
    counts = [
        1 if start is not None else -(-size // length) if pattern.aligned else size - length + 1
        for start, length, size in zip(pattern.starts, pattern.lengths, pattern.shape, strict=True)
    ]
    tries = int(min(SOME_PLACES, max(FEWEST_PLACES, SOME_CHUNKS // touched)))
    if pattern.scattered:
        places = [tuple(int(rng.integers(n)) for n in counts) for _ in range(tries)]
        return [(-1, _scattered_spans(pattern, place, counts, rng)) for place in places]
    total = math.prod(counts)
    if total <= ALL_PLACES and total * touched <= ALL_CHUNKS:
        places = list(itertools.product(*map(range, counts)))
    else:
        places = [tuple(int(rng.integers(n)) for n in counts) for _ in range(tries)]
    return [(_number(place, counts) if pattern.fills else -1, _spans(pattern, place)) for place in places]


def _number(place: Sequence[int], counts: Sequence[int]) -> int:
    number = 0
    for at, n in zip(place, counts, strict=True):
        number = number * n + at
    return number


def _spans(pattern: Pattern, place: Sequence[int]) -> list[Int64 | Span]:
    spans: list[Int64 | Span] = []
    for at, start, length, size in zip(place, pattern.starts, pattern.lengths, pattern.shape, strict=True):
        first = start if start is not None else at * (length if pattern.aligned else 1)
        spans.append((first, min(size, first + length)))
    return spans


def _scattered_spans(
    pattern: Pattern, place: Sequence[int], counts: Sequence[int], rng: np.random.Generator
) -> list[Int64 | Span]:
    spans = _spans(pattern, place)
    axis, length = pattern.axis, pattern.lengths[pattern.axis]
    step = length if pattern.aligned else 1
    firsts = rng.integers(counts[axis], size=pattern.scattered) * step
    cells = (firsts[:, None] + np.arange(length)).ravel()
    spans[axis] = np.unique(cells[cells < pattern.shape[axis]])
    return spans
