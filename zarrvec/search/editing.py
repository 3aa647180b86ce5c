"""How is an index found and changed, so that what is found is always whole?

Parts are written under names that were never used, the head after them; what it no longer names is dropped last. On a
zarrvec store all that is one commit. Source: ``specs/vector-index.md``, section "Changes".
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store
from zarr.core.buffer.cpu import buffer_prototype
from zarr.core.sync import sync
from zarr.storage import StorePath
from zarr.types import AnyArray

from zarrvec.engine.bridge import run_sync
from zarrvec.errors import CorruptError, ReadOnlyError, SearchError
from zarrvec.faces.store import ZarrVecStore
from zarrvec.format.envelope import crc32c
from zarrvec.search.arrays import write_attribute, write_whole
from zarrvec.search.below import PartsBelow
from zarrvec.search.cache import ROOTS
from zarrvec.search.head import ATTRIBUTE, Deleted, Head, age_of, new_id
from zarrvec.search.index import COVERAGE, QUERIES, UNCOVERED, read_deleted, renumbered
from zarrvec.search.places import Snapshot
from zarrvec.search.units import Covered

Int64 = npt.NDArray[np.int64]
T = TypeVar("T")

ABANDONED_SECONDS: Final = 86_400
"""A part that no head names is not being written any more when its name is so old."""
_HEAD_BYTES: Final = 16 << 10
"""About what a head takes in memory."""


def open_head(snapshot: Snapshot) -> Head | None:
    """Return the head of the index, None if there is none."""
    key = ("head", snapshot.token, snapshot.index_path)
    held: dict[Hashable, Head | None] = ROOTS.get_many([key])
    if held:
        return held[key]
    value = snapshot.head()
    head = None if value is None else Head.decode(value, name=f"{snapshot.index_path}/zarr.json")
    if snapshot.token is not None:
        ROOTS.put_many({key: (head, _HEAD_BYTES)})
    return head


def read_anew(array: AnyArray, read: Callable[[], T]) -> T:
    """Return what a function reads of an index, which on a store without versions may be replaced or dropped meanwhile.

    Then it is called again.

    Raises
    ------
    CorruptError
        If it is damaged.
    """
    revision: str | None = ""
    while True:
        try:
            return read()
        except CorruptError:
            snapshot = Snapshot.of(array)
            if snapshot.is_versioned:
                raise
            newest = _revision(open_head(snapshot))
            if newest == revision:
                raise
            revision = newest


def is_replaced(array: AnyArray, head: Head) -> bool:
    """Return whether another has changed an index since, so that parts of it may be gone; never where there are versions."""
    snapshot = Snapshot.of(array)
    return not snapshot.is_versioned and _revision(open_head(snapshot)) != head.revision


def need_head(snapshot: Snapshot) -> Head:
    """Return the head of the index.

    Raises
    ------
    SearchError
        If there is no index, or one of another array.
    """
    head = open_head(snapshot)
    if head is None:
        raise SearchError(
            f"array {snapshot.array.name!r} has no vector index ({snapshot.index_path!r} is not there): make one with "
            "array.vec.build_index()"
        )
    if not fits(snapshot.array, head):
        raise SearchError(of_another(snapshot, head))
    return head


def check_writable(array: AnyArray) -> None:
    """Raise if the array was opened for reading only.

    Raises
    ------
    ReadOnlyError
        If so.
    """
    if array.store_path.store.read_only:
        raise ReadOnlyError(
            f"array {array.name!r} was opened read-only, and so is its index: open its newest version with mode='a' or 'r+'."
        )


def fits(array: AnyArray, head: Head) -> bool:
    """Return whether an index may be that of an array: one of vectors of this width and dtype."""
    return head.width == array.shape[-1] and head.dtype in (str(np.dtype(array.dtype)), dtype_of(array))


def dtype_of(array: AnyArray) -> str:
    """Return the dtype of an array, without the byte order, which is what it was made with until it is opened again."""
    return str(np.dtype(array.dtype).newbyteorder("="))


def of_another(snapshot: Snapshot, head: Head) -> str:
    """Return the message for an index that does not fit."""
    array = snapshot.array
    return (
        f"the index {snapshot.index_path!r} is of another array: of vectors {head.width} x {head.dtype}, those of "
        f"{array.name!r} are {array.shape[-1]} x {array.dtype}. Build it anew: array.vec.build_index(); or search with "
        "exact=True"
    )


def changed(head: Head, **values: Any) -> Head:
    """Return a head with other values, and a revision of its own."""
    return msgspec.structs.replace(head, revision=new_id(), **values)


def deleted_of(snapshot: Snapshot, head: Head | None) -> Int64:
    """Return the ids of the deleted rows, ascending, as the array counts its rows now; none of an index of another array.

    Those that were cut off are among them, for they come back if the array grows again.

    Raises
    ------
    CorruptError
        If they can't be read.
    """
    if head is None or head.deleted_ids is None or not fits(snapshot.array, head):
        return np.empty(0, dtype=np.int64)
    return renumbered(read_deleted(snapshot, head), head.deleted_ids.leading, snapshot.array.shape[:-1])


class OvertakenError(Exception):
    """Another writer changed the index since the head was read that a change rests on; on stores without versions only."""


class Editor:
    """Writes parts of an index, then its head.

    Parameters
    ----------
    snapshot
        Of the array as it is.
    before
        The view by which the head was read that the change rests on, if not `snapshot`.

    Raises
    ------
    SearchError
        If something else is where the index belongs.
    """

    def __init__(self, snapshot: Snapshot, before: Snapshot | None = None) -> None:
        self._snapshot = snapshot
        self._before = open_head(snapshot if before is None else before)
        target = snapshot.target
        self._parts: PartsBelow | None = None
        if not snapshot.is_versioned:
            self._parts = PartsBelow(target.store, (snapshot if before is None else before).document)
            target = StorePath(self._parts)
        try:
            self.group: zarr.Group = zarr.open_group(target, mode="a", zarr_format=3)
        except zarr.errors.ContainsArrayError as error:
            raise _is_array(snapshot) from error
        if ATTRIBUTE not in self.group.attrs:
            _refuse_strangers(snapshot, self._names())

    def look_again(self, now: Snapshot) -> Head | None:
        """Return the head as it is by now; the change rests on that from here on.

        Raises
        ------
        OvertakenError
            If the index was dropped meanwhile, and all that lay there.
        """
        newest = open_head(now)
        if newest is None and self._before is not None:
            raise OvertakenError
        self._before = newest
        return newest

    def finish(
        self, head: Head, covered: Covered | None, deleted: Int64 | None, *, sweep: bool = False
    ) -> Head:
        """Write what goes with the head, the head, and drop parts that it doesn't name; return it as it was written.

        Parameters
        ----------
        covered
            Of the units, if the store is ours.
        deleted
            All deleted ids; None if they didn't change.
        sweep
            Whether to look for what a writer left that died, or another program wrote.

        Raises
        ------
        OvertakenError
            If another writer changed the index meanwhile. The head was not written.
        """
        if covered is not None:
            self._cover(covered)
        if deleted is not None:
            head = msgspec.structs.replace(head, deleted_ids=self._write_deleted(deleted))
        if self._parts is None:
            write_attribute(self.group, ATTRIBUTE, head.encode(), ahead=True)
            known = None if sweep else self._before  # with every head the parts went that it did not name
            there = set(filter(_is_part, self._names())) if known is None else _named_by(known)
            self._drop(there - _named_by(head))
            return head
        sync(self._parts.settle())
        if _revision(open_head(Snapshot.of(self._snapshot.array))) != _revision(self._before):
            raise OvertakenError
        write_attribute(self.group, ATTRIBUTE, head.encode())
        unnamed = set() if self._before is None else self._before.parts
        if sweep:
            unnamed.update(name for name in self._names() if (age_of(name) or 0) > ABANDONED_SECONDS)
        unnamed -= head.parts
        if unnamed:  # a later head may name what this one replaced
            newest = open_head(Snapshot.of(self._snapshot.array))
            self._drop(unnamed - (set() if newest is None else newest.parts))
        return head

    def _drop(self, names: set[str]) -> None:
        store = self._snapshot.target.store
        if names and store.supports_deletes:  # not a ZIP file: what no head names is never read
            _delete_below(store, names)

    def _names(self) -> list[str]:
        """Return what lies in the group, what was begun and never finished too."""
        return _names_in(self._snapshot.target)

    def _write_deleted(self, ids: Int64) -> Deleted | None:
        if not ids.size:
            return None
        stored = ids.astype("<i8")
        told = Deleted(
            id=new_id(),
            count=ids.size,
            crc32c=crc32c(stored.view(np.uint8)),
            leading=self._snapshot.array.shape[:-1],
        )
        write_whole(self.group, told.id, stored)
        return told

    def _cover(self, covered: Covered) -> None:
        write_whole(self.group, COVERAGE, covered.generations.astype("<u8"), keep=True)
        coverage, written = covered.generations.copy(), covered.written
        transaction = self._snapshot.transaction
        if transaction is None or written is None:
            return
        units = self._snapshot.units()

        def uncover() -> None:
            """Take out what is written once more: it will have the number of the commit that indexed it."""
            found = [at for at in map(units.position, sorted(written)) if at is not None]
            if found and COVERAGE in self.group:
                coverage[np.ravel_multi_index(np.array(found).T, units.grid)] = UNCOVERED
                write_whole(self.group, COVERAGE, coverage.astype("<u8"), keep=True)

        transaction.last[self._snapshot.index_path] = uncover


def clear(snapshot: Snapshot) -> bool:
    """Delete the index of a view, or what is left of one, and nothing else; return whether there was anything.

    Raises
    ------
    SearchError
        If what lies there is no index, or holds what is no part of one.
    """
    target = snapshot.target
    if sync(target.is_empty()):  # but for folders, perhaps
        return False
    document = sync(
        target.store.get("zarr.json", buffer_prototype)
    )  # what is deleted is what this attempt sees
    kind = None
    with contextlib.suppress(ValueError, AttributeError):  # it is damaged
        kind = None if document is None else json.loads(document.to_bytes()).get("node_type")
    if kind == "array":
        raise _is_array(snapshot)
    _refuse_strangers(snapshot, _names_in(target))
    if not target.store.supports_deletes:
        raise SearchError(
            f"the index of {snapshot.array.name!r} can't be dropped: {target.store} deletes nothing. Copy the array to another "
            "store, or a new file, without it."
        )
    sync(target.store.delete("zarr.json"))  # first, so that no half is found
    _delete_below(target.store, [""])
    return True


def _delete_below(store: Store, names: Iterable[str]) -> None:
    """Delete folders in the group of an index: beside them is no index to be looked for."""
    if isinstance(store, ZarrVecStore):
        run_sync(store.repository.write(clears=[store.key_of(name) for name in sorted(names)]))
        return

    async def delete() -> None:
        await asyncio.gather(*(store.delete_dir(name) for name in sorted(names)))

    sync(delete())


def _names_in(target: StorePath) -> list[str]:
    async def names() -> list[str]:
        return [name async for name in target.store.list_dir("")]

    return sync(names())


def _is_array(snapshot: Snapshot) -> SearchError:
    return SearchError(
        f"{snapshot.index_path!r} is an array, but the index of {snapshot.array.name!r} belongs there: move it"
    )


def _refuse_strangers(snapshot: Snapshot, names: Iterable[str]) -> None:
    # zarr's LocalStore leaves "zarr.<random>.partial" if it is killed
    known = {name for name in names if _is_part(name) or name == "zarr.json" or name.endswith(".partial")}
    strange = sorted(set(names) - known)
    if strange:
        raise SearchError(
            f"{snapshot.index_path!r} holds {strange[0]!r}, which is no part of an index, but that of "
            f"{snapshot.array.name!r} belongs there: move it"
        )


def _is_part(name: str) -> bool:
    return name in (COVERAGE, QUERIES) or age_of(name) is not None


def _named_by(head: Head) -> set[str]:
    return head.parts | {COVERAGE} | ({QUERIES} if head.calibration.source == "queries" else set())


def _revision(head: Head | None) -> str | None:
    return None if head is None else head.revision
