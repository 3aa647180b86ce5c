"""How do rows that are appended get into an index?

They wait until there is a megabyte of them, then they become a segment with the centroids of the first. Segments are merged
as in a log-structured merge tree. Source: ``specs/vector-index.md``, section "Changes".
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.faces.api import append_once, commit_once, send_ahead
from zarrvec.search.blocks import grid_of, plan_blocks
from zarrvec.search.build import BLOCK_BYTES
from zarrvec.search.editing import Editor, changed, check_writable, deleted_of, fits, open_head
from zarrvec.search.head import Head, Segment, new_id
from zarrvec.search.index import UNCOVERED, open_index
from zarrvec.search.merging import copy_lists
from zarrvec.search.places import Snapshot
from zarrvec.search.placing import Lister
from zarrvec.search.space import beyond_float32, indexed_rows
from zarrvec.search.spool import Spool
from zarrvec.search.storing import spooled_lists, write_segment
from zarrvec.search.stream import stream_blocks
from zarrvec.search.units import Generations, stored_as

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

PENDING_BYTES: Final = 1 << 20
"""Appended rows are compared exactly by each search until there are so many bytes of them; then they become a segment."""
SEGMENTS_OF_A_SIZE: Final = 4
"""So many later segments of about one size are merged to one of the next."""


def append(array: AnyArray, vectors: npt.NDArray[Any]) -> tuple[int, ...]:
    """Append rows, and put them into the index if there is one and enough are waiting; one commit on a zarrvec store.

    Parameters
    ----------
    array
        Of vectors.
    vectors
        (n, ..., d) in the dtype of the array.
    """
    check_writable(array)

    def extend() -> tuple[int, ...]:
        before = Snapshot.of(array)
        head = open_head(before)
        if head is None or not fits(before.array, head):
            return append_once(array, vectors, 0)
        stop = before.array.shape[0]  # before the handle that was given learns the new shape
        counts_alike = (
            before.array.shape[1:-1] == head.leading[1:] and stored_as(before.array) == head.stored_as
        )
        uncovered = open_index(before, head).uncovered if counts_alike else None
        shape = append_once(array, vectors, 0)
        send_ahead(array)
        head = _undelete(array, head, stop)
        if counts_alike:
            _extend(array, head, stop, uncovered, vectors)
        return shape

    return commit_once(array, extend)


def _undelete(array: AnyArray, head: Head, stop: int) -> Head:
    """Return the head of an index that no longer hides new rows which got the ids of deleted ones that were cut off."""
    if not head.deleted:
        return head
    now = Snapshot.of(array)
    deleted = deleted_of(now, head)
    there = deleted < stop * math.prod(now.array.shape[1:-1])
    return head if there.all() else Editor(now).finish(changed(head), None, deleted[there])


def _extend(
    array: AnyArray, head: Head, stop: int, uncovered: Mask | None, vectors: npt.NDArray[Any]
) -> None:
    """Put the rows from `stop` on, and those that waited, into a segment if they are enough."""
    start = head.leading[0]
    if start > stop:
        return  # it was cut shorter than the index knows it: rows of old ids come back
    row_bytes = math.prod(head.leading[1:]) * head.width * vectors.itemsize
    if (stop - start + len(vectors)) * row_bytes < PENDING_BYTES:
        return
    now = Snapshot.of(array)
    editor = Editor(now)
    segments = head.segments
    with Spool(head.layout) as spool:
        index = open_index(now, head)
        lister = Lister(index.centroids.load(now).compass.vectors, head.second_from)
        rows, squares = 0, 0.0
        for ids, new in _blocks(now.array, start, stop, vectors):
            kept_rows, kept = indexed_rows(new, head.metric, index.centroids.origin)
            if beyond_float32(new, kept).size:
                return  # they stay in no list, and all that come with them
            squares += lister.place(ids[kept], kept_rows, spool).squares
            rows += len(kept_rows)
        if rows:
            merged = _tier(segments[1:], rows)
            radii = lister.radii
            for part in index.parts:
                if any(part.id == segment.id for segment in merged):
                    copy_lists(now, part, spool)
                    radii = np.maximum(radii, part.radii)
            order, counts = spool.sort(head.nlist)
            total = rows + sum(segment.rows for segment in merged)
            squares += sum(segment.spread * segment.rows for segment in merged)
            added = write_segment(
                editor.group,
                new_id(),
                spooled_lists(spool, order, counts),
                counts=counts,
                layout=head.layout,
                rows=total,
                spread=squares / total,
                radii=radii,
                centroids=None,
                versioned=now.is_versioned,
            )
            segments = (*(segment for segment in segments if segment not in merged), added)
    editor.finish(
        changed(
            head,
            leading=now.array.shape[:-1],
            segments=segments,
            grid=now.units().grid if now.is_versioned else (),
        ),
        _coverage(now, head, uncovered),
        None,
    )


def _blocks(
    source: AnyArray, start: int, stop: int, vectors: npt.NDArray[Any]
) -> Iterator[tuple[Int64, npt.NDArray[Any]]]:
    """Yield ids and rows: those that waited, from one position on the first axis to another, and the new ones."""
    leading = source.shape[:-1]
    if start < stop:
        waiting = np.zeros(leading, dtype=np.bool_)
        waiting[start:stop] = True
        plan = plan_blocks(grid_of(source), block_bytes=BLOCK_BYTES, mask=waiting)
        with closing(stream_blocks(source, plan)) as stream:
            for block, rows in stream:
                chosen = block.within(waiting)
                yield block.ids(leading)[chosen], rows[chosen]
    rows = vectors.reshape(-1, source.shape[-1])
    yield stop * math.prod(leading[1:]) + np.arange(len(rows)), rows


def _tier(segments: Sequence[Segment], rows: int) -> list[Segment]:
    """Return the later segments that become one with a new one of so many rows.

    As in a log-structured merge tree: when there are enough of about its size, they and the new one become one, which is
    then of the next size.
    """
    merged: list[Segment] = []
    while True:
        size = rows + sum(segment.rows for segment in merged)
        near = [
            segment
            for segment in segments
            if segment not in merged and segment.rows < SEGMENTS_OF_A_SIZE * size
        ]
        if len(near) < SEGMENTS_OF_A_SIZE - 1 and not (merged and near):
            return merged
        merged += near


def _coverage(now: Snapshot, head: Head, uncovered: Mask | None) -> Generations | None:
    """Return what is covered when all rows that no list ever had are in one; what was stale before remains so."""
    generations = now.generations()
    if generations is None or uncovered is None:
        return generations
    stale = np.zeros(now.array.shape[:-1], dtype=np.bool_)
    old = slice(0, head.leading[0])
    stale[old] = uncovered[old]
    return np.where(grid_of(now.array).units_of(stale), np.uint64(UNCOVERED), generations)
