"""How do rows that are appended get into an index?

They wait until there is a megabyte of them, then they become a segment with the centroids of the first. Segments are merged
as in a log-structured merge tree. Source: ``specs/vector-index.md``, section "Changes".
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.faces.api import append_once, commit_once, newest_of, send_ahead
from zarrvec.faces.pipeline import REDO_LIMIT
from zarrvec.search.blocks import grid_of, plan_blocks
from zarrvec.search.build import BLOCK_BYTES
from zarrvec.search.editing import (
    Editor,
    OvertakenError,
    changed,
    check_writable,
    deleted_of,
    fits,
    open_head,
)
from zarrvec.search.head import Head, Segment, new_id
from zarrvec.search.index import UNCOVERED, Index, open_index
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
        before, newest = Snapshot.of(array), None
        if not before.is_versioned:  # the handle that was given may be older than others' appends
            newest = newest_of(array)
            before = Snapshot.of(newest)
        head = open_head(before)
        if head is None or not fits(before.array, head):
            return append_once(array, vectors, 0, newest)
        stop = before.array.shape[0]  # before the handle that was given learns the new shape
        index = None
        if before.array.shape[1:-1] == head.leading[1:] and stored_as(before.array) == head.stored_as:
            index = open_index(before, head)
        if stop < head.leading[0] and not before.is_versioned:
            with contextlib.suppress(OvertakenError):
                _cut(before, head, stop)
            return extend()
        shape = append_once(array, vectors, 0, newest)
        send_ahead(array)
        for _ in range(REDO_LIMIT):
            try:
                _follow(array, before, head, index, stop, vectors)
                break
            except OvertakenError:  # the rows are in no list of the new index, but must not be hidden by it
                before, index = Snapshot.of(array), None
                head = open_head(before)
                if head is None or not fits(before.array, head):
                    break
        return shape

    return commit_once(array, extend)


def _cut(snapshot: Snapshot, head: Head, stop: int) -> None:
    """Take rows out of the index that were cut off, where only the length of the array tells of new ones in their places."""
    Editor(snapshot).finish(changed(head, leading=(stop, *head.leading[1:]), cut=True), None, None)


def _follow(
    array: AnyArray,
    before: Snapshot,
    head: Head,
    index: Index | None,
    stop: int,
    vectors: npt.NDArray[Any],
) -> None:
    """Change the index after rows were appended behind `stop`."""
    now = Snapshot.of(array)
    deleted = None
    if head.deleted:
        ids = deleted_of(now, head) if index is None else index.deleted
        # new rows may have got the ids of ones that were cut off
        there = ids < stop * math.prod(now.array.shape[1:-1])
        deleted = None if there.all() else ids[there]
    done = index is not None and _extend(now, before, head, index, stop, vectors, deleted)
    if not done and deleted is not None:
        Editor(now, before).finish(changed(head), None, deleted)


def _extend(
    now: Snapshot,
    before: Snapshot,
    head: Head,
    index: Index,
    stop: int,
    vectors: npt.NDArray[Any],
    deleted: Int64 | None,
) -> bool:
    """Put the rows from `stop` on, and those that waited, into a segment if they are enough; return whether it was done."""
    start = head.leading[0]
    if start > stop or head.cut or (head.grid and not now.is_versioned):
        return False  # lists have rows of these ids as they were once
    row_bytes = math.prod(head.leading[1:]) * head.width * vectors.itemsize
    if (stop - start + len(vectors)) * row_bytes < PENDING_BYTES:
        return False
    editor = Editor(now, before)
    segments = head.segments
    with Spool(head.layout) as spool:
        lister = Lister(index.centroids.load(now).compass.vectors, head.second_from)
        rows, squares = 0, 0.0
        for ids, new in _blocks(now.array, start, stop, vectors):
            kept_rows, kept = indexed_rows(new, head.metric, index.centroids.origin)
            if beyond_float32(new, kept).size:
                return False  # they stay in no list, and all that come with them
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
        _coverage(now, head, index.uncovered),
        deleted,
    )
    return True


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
