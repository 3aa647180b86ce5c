"""About how many requests and bytes does a call take, by formulas that are quick enough to try thousands of layouts?

Pure. What it says of the number of chunks is exact on average; of requests it knows no edges of packs.

Source: ``specs/planner.md``, section "Counting requests".
"""

import math
from typing import Final

from zarrvec.format.manifest import PAGE_RAW_BYTES
from zarrvec.format.table import CRC_BYTES
from zarrvec.layout.coalesce import GAP_BYTES, READ_BYTES
from zarrvec.layout.fold import INLINE_BYTES, TINY_COMMIT_BYTES
from zarrvec.planner.access import Pattern
from zarrvec.planner.grid import covered_anywhere, distinct, touched_anywhere, touched_by_tiles
from zarrvec.planner.layout import Layout, Work

_PACK_AND_COMMIT_BYTES: Final = 1200


def estimate(layout: Layout, pattern: Pattern) -> Work:
    """Return about the mean work of a call.

    Examples
    --------
    >>> from zarrvec.planner.access import Access, resolve
    >>> layout = Layout(shape=(100, 1024), itemsize=4, chunks=(1, 1024))
    >>> work = estimate(layout, resolve(Access("read", (10, None)), layout.shape))
    >>> work.gets, work.get_bytes, work.chunks_decoded
    (1.0, 41000.0, 10.0)
    """
    along = _touched(layout, pattern)
    touched = math.prod(along)
    wanted = float(pattern.cells * layout.itemsize)
    if pattern.kind == "read":
        gets, size = _reads(layout, pattern, along)
        return Work(
            gets=gets,
            get_bytes=size,
            chunks_decoded=touched,
            wanted_bytes=wanted,
            runs=layout.runs(pattern, pattern.cells),
            picked_cells=pattern.cells if pattern.scattered else 0,
            picked_lines=along[pattern.axis] if pattern.scattered else 0,
        )
    calls = _calls(pattern)
    if pattern.fills:
        old = max(0.0, touched - layout.chunk_count / calls)
    else:
        covered = 0.0 if pattern.scattered else math.prod(
            covered_anywhere(size, length, chunk)
            for size, length, chunk in zip(pattern.shape, pattern.lengths, layout.chunks, strict=True)
        )  # fmt: skip
        old = max(0.0, touched - covered)
    value = layout.value_bytes
    gets = old
    if layout.store == "zarrvec" and old:
        gets, _ = _reads(layout, pattern, along)
        gets *= old / touched
    puts = touched
    if layout.store == "zarrvec":
        packs = 0.0 if touched * value <= TINY_COMMIT_BYTES else max(1.0, touched * value / layout.pack_bytes)
        puts = packs + 1
    extra = _PACK_AND_COMMIT_BYTES if layout.store == "zarrvec" else 0
    return Work(
        gets=gets,
        get_bytes=old * (value + CRC_BYTES),
        puts=puts,
        put_bytes=touched * (value + CRC_BYTES) + extra,
        chunks_decoded=old,
        chunks_encoded=touched,
        wanted_bytes=wanted,
        runs=layout.runs(pattern, pattern.cells),
    )


def _calls(pattern: Pattern) -> int:
    """Return how many calls fill the array."""
    return math.prod(-(-size // length) for size, length in zip(pattern.shape, pattern.lengths, strict=True))


def _touched(layout: Layout, pattern: Pattern) -> list[float]:
    """Return how many chunks a call touches along each axis."""
    result = []
    for axis, (size, length, chunk, start) in enumerate(
        zip(pattern.shape, pattern.lengths, layout.chunks, pattern.starts, strict=True)
    ):
        if start is not None:
            touched = float((start + length - 1) // chunk - start // chunk + 1)
        elif pattern.aligned:
            touched = touched_by_tiles(size, length, chunk) / -(-size // length)
        else:
            touched = touched_anywhere(size, length, chunk)
        if pattern.scattered and axis == pattern.axis:
            touched = distinct(-(-size // chunk), touched, pattern.scattered)
        result.append(touched)
    return result


def _reads(layout: Layout, pattern: Pattern, along: list[float]) -> tuple[float, float]:
    value = layout.value_bytes
    if layout.store == "plain":
        touched = math.prod(along)
        return touched, touched * value
    stored = value + CRC_BYTES
    in_a_write = [
        max(1.0, min(-(-size // chunk), length / chunk))
        for size, chunk, length in zip(layout.shape, layout.chunks, layout.tile, strict=True)
    ]
    writes = 1.0
    runs, span, stride = 1.0, float(stored), float(stored)
    for axis in reversed(range(len(along))):
        touched, extent = along[axis], in_a_write[axis]
        here = min(touched, extent)
        writes *= touched / here
        if pattern.scattered and axis == pattern.axis and 1 < here < extent:
            joined = 1 - (1 - here / extent) ** (GAP_BYTES // stride + 1)
            separate = 1 + (here - 1) * (1 - joined)
            span = (
                span * here + (here - separate) * min(GAP_BYTES / 2, (extent / here - 1) * stride)
            ) / separate
            runs *= separate
        elif here > 1:
            if stride - span <= GAP_BYTES:
                span += (here - 1) * stride
            else:
                runs *= here
        stride *= extent
    cuts = max(1.0, span / READ_BYTES)
    if stored > READ_BYTES:
        cuts = max(cuts, math.ceil(stored / (READ_BYTES + READ_BYTES / 8)) * span / stored)
    gets = writes * runs * cuts
    return gets, gets * PAGE_RAW_BYTES if value <= INLINE_BYTES else writes * runs * span
