"""Where does each chunk come to stand, and which requests does that make of a read?

Pure; the engine's own rules (`zarrvec.layout`) on values that are not there yet, so the counts are the engine's wherever the
length of a value is known.

Source: ``specs/planner.md``, section "Counting requests".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from zarrvec.faces.pipeline import _slices
from zarrvec.format.manifest import PAGE_RAW_BYTES
from zarrvec.format.pack import HEADER
from zarrvec.format.table import CRC_BYTES
from zarrvec.layout.coalesce import GAP_BYTES, READ_BYTES, Range, coalesce, split_long
from zarrvec.layout.fold import _ENTRY_BYTES, DELTA_BYTES, INLINE_BYTES, TINY_COMMIT_BYTES
from zarrvec.planner.layout import Layout

Int64 = npt.NDArray[np.int64]

KEY_BYTES: Final = 24
"""About how long the key of a chunk is."""
EXACT_CHUNKS: Final = 20_000
"""Up to so many chunks of one read are coalesced as the engine does it; more by a formula that cuts less exactly."""
_PAGES_OF_A_PACK: Final = 1 << 20


class Reads(NamedTuple):
    """Requests and what they bring."""

    requests: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where chunks stand."""

    pack: Int64
    """(n,) int64, a number for each pack."""
    offset: Int64
    """(n,) int64, of the value in its pack."""


def places_of(layout: Layout, index: Sequence[Int64], *, before: int | None = None) -> Places:
    """Return where the chunks at the crossings of some rows of the grid stand, in C order.

    Parameters
    ----------
    layout
        Filled by its writes, one after the other in C order.
    index
        For each axis the numbers of chunks.
    before
        Only so many writes have been made; None for all of them.

    Examples
    --------
    >>> layout = Layout(shape=(8, 4), itemsize=1, chunks=(1, 4))
    >>> places_of(layout, (np.arange(2), np.arange(1))).offset.tolist()
    [8, 16]
    """
    stored = layout.value_bytes + CRC_BYTES
    per_pack = max(1, layout.pack_bytes // stored)
    writes = np.zeros((1,) * len(index), dtype=np.int64)
    for along, length, size, chunk, tiles in zip(
        _open(index), layout.tile, layout.shape, layout.chunks, layout.tiles, strict=True
    ):
        writes = writes * tiles + (np.minimum((along + 1) * chunk, size) - 1) // length
    if before is not None:
        writes = np.minimum(writes, before - 1)
    position = np.zeros_like(writes)
    written = np.ones_like(writes)
    rest = writes
    tile_of = []
    for tiles in reversed(layout.tiles):
        tile_of.append(rest % tiles)
        rest = rest // tiles
    for along, tile, length, size, chunk in zip(
        _open(index), reversed(tile_of), layout.tile, layout.shape, layout.chunks, strict=True
    ):
        first = tile * length // chunk
        extent = -(-np.minimum(size, (tile + 1) * length) // chunk) - first
        position = position * extent + (along - first)
        written = written * extent
    small = np.broadcast_to(written * layout.value_bytes <= TINY_COMMIT_BYTES, position.shape)
    group = _tiny_writes_of_a_pack(layout)
    position = np.where(small, position + (writes % group) * written, position)
    writes = np.where(small, writes // group * group, writes)
    pack = writes * (-(-layout.chunk_count // per_pack) + group + 1) + position // per_pack
    return Places(
        pack=np.broadcast_to(pack, np.broadcast_shapes(pack.shape, position.shape)).ravel(),
        offset=(HEADER.size + position % per_pack * stored).ravel(),
    )


def reads_of(layout: Layout, places: Places) -> Reads:
    """Return the requests that bring the values at some places, which one call asks for in this order.

    Values so small that manifest pages hold them are read with their page, as if it were in no cache.

    Examples
    --------
    >>> layout = Layout(shape=(8, 4096), itemsize=1, chunks=(1, 4096))
    >>> reads_of(layout, places_of(layout, (np.arange(8), np.arange(1))))
    Reads(requests=1, bytes=32800)
    """
    count = len(places.pack)
    if not count:
        return Reads(0, 0)
    if layout.value_bytes <= INLINE_BYTES:
        pages = len(np.unique(places.pack * _PAGES_OF_A_PACK + places.offset // PAGE_RAW_BYTES))
        return Reads(pages, pages * PAGE_RAW_BYTES)
    requests = size = 0
    for start, stop in _slices_of(layout, count):
        pack, offset = places.pack[start:stop], places.offset[start:stop]
        done = _coalesced(layout, pack, offset) if count <= EXACT_CHUNKS else _roughly(layout, pack, offset)
        requests += done.requests
        size += done.bytes
    return Reads(requests, size)


def packs_of_write(layout: Layout, chunks: int) -> int:
    """Return how many packs a commit of so many whole values has.

    Examples
    --------
    >>> layout = Layout(shape=(100,), itemsize=1 << 20, chunks=(1,))
    >>> packs_of_write(layout, 100), packs_of_write(Layout(shape=(9,), itemsize=8, chunks=(9,)), 1)
    (7, 0)
    >>> packs_of_write(Layout(shape=(400, 100), itemsize=1, chunks=(1, 100)), 400)  # one, with the pages that hold them
    1
    """
    if chunks * layout.value_bytes <= TINY_COMMIT_BYTES or layout.value_bytes <= INLINE_BYTES:
        return int(chunks * (layout.value_bytes + KEY_BYTES + _ENTRY_BYTES) > DELTA_BYTES)
    per_pack = max(1, layout.pack_bytes // (layout.value_bytes + CRC_BYTES))
    packs, rest = divmod(chunks, per_pack)
    return packs + (rest > 0 and not (packs and rest * layout.value_bytes <= TINY_COMMIT_BYTES))


def _open(index: Sequence[Int64]) -> list[Int64]:
    return [
        values.reshape([-1 if axis == at else 1 for axis in range(len(index))])
        for at, values in enumerate(index)
    ]


def _tiny_writes_of_a_pack(layout: Layout) -> int:
    """Return how many commits without a pack of their own are folded into one."""
    chunks = math.prod(
        -(-min(length, size) // chunk)
        for length, size, chunk in zip(layout.tile, layout.shape, layout.chunks, strict=True)
    )
    return max(1, DELTA_BYTES // (chunks * (layout.value_bytes + KEY_BYTES + _ENTRY_BYTES)))


def _slices_of(layout: Layout, count: int) -> list[tuple[int, int]]:
    if count > EXACT_CHUNKS:
        return [(0, count)]
    return _slices([layout.value_bytes] * count)


def _coalesced(layout: Layout, pack: Int64, offset: Int64) -> Reads:
    length = layout.value_bytes + CRC_BYTES
    ranges = [
        Range(number.to_bytes(8, "big"), at, length)
        for number, at in zip(pack.tolist(), offset.tolist(), strict=True)
    ]
    reads = coalesce(ranges)
    limit = READ_BYTES + READ_BYTES // 8
    return Reads(
        sum(len(split_long(read.start, read.length, size=limit)) for read in reads),
        sum(read.length for read in reads),
    )


def _roughly(layout: Layout, pack: Int64, offset: Int64) -> Reads:
    length = layout.value_bytes + CRC_BYTES
    order = np.lexsort((offset, pack))
    pack, offset = pack[order], offset[order]
    begins = np.flatnonzero((np.diff(pack) != 0) | (np.diff(offset) - length > GAP_BYTES)) + 1
    starts = offset[np.concatenate(([0], begins))]
    ends = offset[np.concatenate((begins - 1, [len(offset) - 1]))] + length
    spans = ends - starts
    return Reads(int(np.ceil(spans / READ_BYTES).sum()), int(spans.sum()))
