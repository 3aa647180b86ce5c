"""How do rows that are appended get into an index?

They wait until there is a megabyte of them, then they become a segment with the centroids of the first. Segments are merged
as in a log-structured merge tree. Source: ``specs/vector-index.md``, section "Changes".
"""

import contextlib
import math
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.engine.traffic import Traffic, counting
from zarrvec.errors import ConflictError, CorruptError
from zarrvec.faces.pipeline import REDO_LIMIT
from zarrvec.faces.writing import append_once, commit_once, newest_of, sending_ahead
from zarrvec.search.blocks import grid_of, plan_blocks
from zarrvec.search.build import BLOCK_BYTES
from zarrvec.search.cache import ROOTS
from zarrvec.search.editing import (
    Editor,
    OvertakenError,
    changed,
    check_writable,
    deleted_of,
    fits,
    is_replaced,
    open_head,
)
from zarrvec.search.head import Head, Segment, new_id
from zarrvec.search.index import UNCOVERED, Index, open_index
from zarrvec.search.inputs import as_rows
from zarrvec.search.merging import JoinedLists, Listed
from zarrvec.search.pairing import Pairing
from zarrvec.search.places import Snapshot
from zarrvec.search.placing import Lister
from zarrvec.search.space import beyond_float32, indexed_rows
from zarrvec.search.spool import Spool
from zarrvec.search.storing import write_segment
from zarrvec.search.stream import stream_blocks
from zarrvec.search.units import Covered, stored_as

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_PLACED_BYTES: Final = 4 << 20
"""Rows that are put into lists at a time, as float32. Who appends has other threads, and every call that lets them have the GIL
costs ten times what it costs alone."""
PENDING_BYTES: Final = 1 << 20
"""Appended rows are compared exactly by each search until there are so many bytes of them; then they become a segment."""
SEGMENTS_OF_A_SIZE: Final = 4
"""So many later segments of about one size are merged to one of the next."""


def append(array: AnyArray, vectors: npt.ArrayLike) -> tuple[int, ...]:
    """Append rows, and put them into the index if there is one and enough are waiting; one commit on a zarrvec store.

    Parameters
    ----------
    array
        Of vectors.
    vectors
        (n, ..., d), as the array is by now.
    """
    check_writable(array)

    def extend() -> tuple[int, ...]:
        before = Snapshot.of(array)
        if before.is_versioned:
            newest = before.to_write(array)
        else:  # the handle that was given may be older than others' appends
            newest = newest_of(array)
            before = Snapshot.of(newest)
        rows = as_rows(vectors, before.array)
        head = open_head(before)
        if head is None or not fits(before.array, head):
            return append_once(array, rows, 0, newest)
        stop = before.array.shape[0]  # before the handle that was given learns the new shape
        index = None
        if before.array.shape[1:-1] == head.leading[1:] and stored_as(before.array) == head.stored_as:
            try:
                index = open_index(before, head)
            except CorruptError:
                if is_replaced(before.array, head):
                    return extend()
                raise
        if stop < head.leading[0] and not before.is_versioned:
            with contextlib.suppress(OvertakenError):
                _cut(before, head, stop)
            return extend()
        with ExitStack() as stack, counting() as read:
            listing = None
            if index is not None and _is_enough(before, head, stop, rows):
                listing = stack.enter_context(_Listing(before, head, index, stop, rows, read))
                if not before.is_versioned:
                    listing.start()  # writes wait for the storage, here; on a zarrvec store encoding takes all cores
            with sending_ahead(array):
                shape = append_once(array, rows, 0, newest)
            if listing is not None and before.is_versioned:
                listing.start()
            _follow(array, before, head, index, listing, stop)
        return shape

    return commit_once(array, extend, is_short=True)


def catch_up(array: AnyArray, head: Head) -> None:
    """Make a segment of rows that others appended while lists were made of those before them, if so many wait."""
    now = Snapshot.of(array)
    none = np.empty((0, *now.array.shape[1:]), dtype=now.array.dtype)
    # elsewhere than on a zarrvec store rows may be there before they are written
    if now.is_versioned and fits(now.array, head) and _is_enough(now, head, now.array.shape[0], none):
        append(array, none)


def _cut(snapshot: Snapshot, head: Head, stop: int) -> None:
    """Take rows out of the index that were cut off, where only the length of the array tells of new ones in their places."""
    Editor(snapshot).finish(changed(head, leading=(stop, *head.leading[1:]), cut=True), None, None)


def _is_enough(before: Snapshot, head: Head, stop: int, vectors: npt.NDArray[Any]) -> bool:
    """Return whether new rows, with those that wait, become a segment."""
    waiting = stop - head.leading[0]
    if waiting < 0 or head.cut or (head.grid and not before.is_versioned):
        return False  # lists have rows of these ids as they were once
    row_bytes = math.prod(head.leading[1:]) * head.width * vectors.itemsize
    return (waiting + len(vectors)) * row_bytes >= PENDING_BYTES


class _Listing:
    """The lists of a new segment; from `start` on a thread puts the new rows into them.

    Parameters
    ----------
    before
        The array before they are appended.
    stop
        Its length then, along the first axis.
    vectors
        The new rows.
    read
        Counts what the append reads.
    """

    def __init__(
        self,
        before: Snapshot,
        head: Head,
        index: Index,
        stop: int,
        vectors: npt.NDArray[Any],
        read: Traffic,
    ) -> None:
        self._head, self._origin = head, index.centroids.origin
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="zarrvec-append")
        self.spool = Spool(head.layout)
        self.rows, self.squares = 0, 0.0
        """How many are in them, and the sum of the squared distances to their nearest centroids."""
        self._read = read
        self._first = stop * math.prod(head.leading[1:])
        self._vectors = vectors.reshape(-1, head.width)
        self._lister = self._thread.submit(_lister_of, before, head, index)
        self._placed: Future[bool] | None = None

    def start(self) -> None:
        """Begin to put the new rows into lists."""
        ids = self._first + np.arange(len(self._vectors))
        self._placed = self._thread.submit(self._place, ids, self._vectors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        self.spool.__exit__(kind, error, trace)

    @property
    def ahead(self) -> bool:
        """Whether a half of them is sent while the other is made: a request more, where none was needed to read anything."""
        return not self._read.requests

    @property
    def radii(self) -> npt.NDArray[np.float32]:
        """Of the lists: (nlist,) float32."""
        return self._lister.result().radii

    def finish(self, array: AnyArray, start: int, stop: int) -> bool:
        """Put the rows of the array that waited in too, and return whether all can be in lists."""
        if self._placed is None or not self._placed.result():
            return False
        if start == stop:
            return True
        leading = array.shape[:-1]
        waiting = np.zeros(leading, dtype=np.bool_)
        waiting[start:stop] = True
        plan = plan_blocks(grid_of(array), block_bytes=BLOCK_BYTES, mask=waiting)
        with closing(stream_blocks(array, plan)) as stream:
            for block, rows in stream:
                chosen = block.within(waiting)
                if not self._place(block.ids(leading)[chosen], rows[chosen]):
                    return False
        return True

    def _place(self, ids: Int64, new: npt.NDArray[Any]) -> bool:
        lister = self._lister.result()
        step = max(1, _PLACED_BYTES // (4 * self._head.width))
        for start in range(0, len(new), step):
            part = slice(start, start + step)
            rows, kept = indexed_rows(new[part], self._head.metric, self._origin)
            if beyond_float32(new[part], kept).size:
                return False  # they stay in no list, and all that come with them
            self.squares += lister.place(ids[part][kept], rows, self.spool).squares
            self.rows += len(rows)
        return True


def _lister_of(snapshot: Snapshot, head: Head, index: Index) -> Lister:
    """Return what puts rows into the lists of an index; what that knows of their centroids is kept for the next append."""
    centroids = index.centroids.load(snapshot).compass.vectors
    key = ("pairing", head.segments[0].id)
    held: dict[Hashable, Pairing] = ROOTS.get_many([key])
    pairing = held.get(key) or Pairing(centroids)
    ROOTS.put_many({key: (pairing, pairing.nbytes)})
    return Lister(centroids, head.second_from, pairing)


def _follow(
    array: AnyArray, before: Snapshot, head: Head, index: Index | None, listing: _Listing | None, stop: int
) -> None:
    """Change the index after rows were appended behind `stop`; once more if others change it meanwhile.

    Raises
    ------
    ConflictError
        If they do so all the time.
    """
    for _ in range(REDO_LIMIT):
        try:
            _change(Snapshot.of(array), before, head, index, listing, stop)
        except (OvertakenError, CorruptError) as error:
            if isinstance(error, CorruptError) and not is_replaced(array, head):
                raise
            index = listing = None  # the rows are in no list of the new index, but must not be hidden by it
        else:
            return
        before = Snapshot.of(array)
        newest = open_head(before)
        if newest is None or not fits(before.array, newest):
            return
        head = newest
    raise ConflictError(
        f"array {array.name!r}: the rows from {stop} on were appended, but others changed its index {REDO_LIMIT} times meanwhile. "
        "If rows of these numbers were once deleted and cut off, searches leave the new ones out: array.vec.drop_index(), then "
        "array.vec.build_index(), while nobody else writes."
    )


def _change(
    now: Snapshot, before: Snapshot, head: Head, index: Index | None, listing: _Listing | None, stop: int
) -> None:
    deleted = None
    if head.deleted:
        ids = deleted_of(now, head) if index is None else index.deleted
        # new rows may have got the ids of ones that were cut off
        there = ids < stop * math.prod(now.array.shape[1:-1])
        deleted = None if there.all() else ids[there]
    is_cut = stop < head.leading[0] and not now.is_versioned  # others read rows that were not yet written
    if deleted is None and listing is None and not is_cut:
        return
    covered = None if listing is None else now.covered()
    editor = Editor(now, before)  # rows are put into lists meanwhile
    if index is not None and listing is not None and listing.finish(now.array, head.leading[0], stop):
        _extend(now, editor, head, index, listing, covered, deleted)
    elif is_cut:
        editor.finish(changed(head, leading=(stop, *head.leading[1:]), cut=True), None, deleted)
    elif deleted is not None:
        editor.finish(changed(head), None, deleted)


def _extend(
    now: Snapshot,
    editor: Editor,
    head: Head,
    index: Index,
    listing: _Listing,
    covered: Covered | None,
    deleted: Int64 | None,
) -> None:
    """Make a segment of the new rows and those that waited, if there are any, and of segments that become one with it."""
    segments = head.segments
    if listing.rows:
        merged = _tier(segments[1:], listing.rows)
        parts = [part for part in index.parts if any(part.id == segment.id for segment in merged)]
        order, counts = listing.spool.sort(head.nlist)
        new = Listed(counts, lambda run, counts: listing.spool.packed(order[run], counts))
        lists = JoinedLists(now, parts, new, ahead=listing.ahead)
        total = listing.rows + sum(segment.rows for segment in merged)
        squares = listing.squares + sum(segment.spread * segment.rows for segment in merged)
        added = write_segment(
            editor.group,
            new_id(),
            lists,
            counts=lists.counts,
            layout=head.layout,
            rows=total,
            spread=squares / total,
            radii=np.maximum.reduce([listing.radii, *(part.radii for part in parts)]),
            centroids=None,
        )
        segments = (*(segment for segment in segments if segment not in merged), added)
    editor.finish(
        changed(
            head,
            leading=now.array.shape[:-1],
            segments=segments,
            grid=now.units().grid if now.is_versioned else (),
        ),
        None if covered is None else _coverage(covered, now.array, head, index.uncovered),
        deleted,
    )


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


def _coverage(covered: Covered, array: AnyArray, head: Head, uncovered: Mask | None) -> Covered:
    """Return what is covered when all rows that no list ever had are in one; what was stale before remains so."""
    if uncovered is None:
        return covered
    stale = np.zeros(array.shape[:-1], dtype=np.bool_)
    old = slice(0, head.leading[0])
    stale[old] = uncovered[old]
    units = grid_of(array).units_of(stale)
    return covered._replace(generations=np.where(units, np.uint64(UNCOVERED), covered.generations))
