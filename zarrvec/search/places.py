"""Where does the index of an array lie, and what is seen of both in one call?

On a zarrvec store that is one version: metadata, chunks and index are all of it. Other stores have no versions, and each
part is what it is when it is read.
"""

import contextlib
import copy
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from zarr import Array
from zarr.storage import StorePath
from zarr.types import AnyArray

from zarrvec.engine.traffic import Traffic
from zarrvec.errors import CorruptError
from zarrvec.faces.targets import repository_and_key
from zarrvec.repository import Transaction
from zarrvec.search.below import StoreBelow
from zarrvec.search.beside import Above, above, find
from zarrvec.search.head import ATTRIBUTE
from zarrvec.search.sources import Plain, Token, Versioned, Want, documents_of
from zarrvec.search.units import Covered, Generations, Units, changed_units

__all__ = ["Snapshot", "Want", "index_path_of", "undamaged"]

T = TypeVar("T")


def index_path_of(path: str) -> str:
    """Return the path of the group of an array's index, beside the array, or in it if it is the root of its store.

    Of a plain store: of the one that the index lies in, see `zarrvec.search.beside`.

    Examples
    --------
    >>> index_path_of("texts/emb"), index_path_of("")
    ('texts/emb.vec', '.vec')
    """
    return f"{path}.vec"


def undamaged(read: Callable[[], T]) -> T:
    """Return what a function reads and checks; it is called once more if that is damaged, for a bit may have flipped on the way.

    Examples
    --------
    >>> answers = iter([b"wrong", b"right"])
    >>> def read():
    ...     answer = next(answers)
    ...     if answer != b"right":
    ...         raise CorruptError("the checksum is wrong")
    ...     return answer
    >>> undamaged(read)
    b'right'
    """
    try:
        return read()
    except CorruptError:
        return read()


class Snapshot:
    r"""One view of an array and its index. Make it with `of`, for one call.

    Parameters
    ----------
    source
        What is read.
    array
        The array as it is there.
    path
        Where it is there.
    higher
        Where its group may be, if the array is all of a plain store.

    Examples
    --------
    >>> import zarr
    >>> array = zarr.create_array(zarr.storage.MemoryStore(), name="emb", data=np.eye(3, dtype="f4"))
    >>> snapshot = Snapshot.of(array)
    >>> snapshot.index_path, snapshot.is_versioned, snapshot.head()
    ('emb.vec', False, None)
    >>> group = zarr.create_group(snapshot.target, attributes={"zarrvec_index": {"format": 1}})
    >>> _ = group.create_array("ids", data=np.arange(4, dtype="u1"), compressors=None)
    >>> snapshot = Snapshot.of(array)
    >>> snapshot.head(), [bytes(part) for part in snapshot.read([Want("ids/c/0", 1, 3)])]
    ({'format': 1}, [b'\x01\x02'])
    >>> snapshot.stats
    Traffic(requests=2, bytes=..., rounds=2)
    """

    __slots__ = ("_above", "_array", "_head", "_is_read", "_path", "_source", "_units", "stats")

    def __init__(
        self, source: Versioned | Plain, array: AnyArray, path: str, higher: Above | None = None
    ) -> None:
        self._source = source
        self._above = higher
        self._array = array
        self._path = path
        self._head: bytes | None = None
        self._is_read = isinstance(source, Versioned)
        self._units: Units | None = None
        self.stats = Traffic()
        """What reading through the snapshot cost: on a zarrvec store reads of packs, elsewhere calls of the store."""

    @classmethod
    def of(cls, array: AnyArray) -> "Snapshot":
        """Look at an array in its newest version, in the pinned one, or as the open transaction sees it.

        Raises
        ------
        SearchError
            If the array is not there any more.
        """
        place = array.store_path
        found = repository_and_key(place.store, place.path)
        if found is None:
            as_it_is = Array(copy.copy(array.async_array))  # another thread may resize the one that was given
            return cls(
                Plain(store=place.store), as_it_is, place.path, None if place.path else above(place.store)
            )
        repository, path = found
        source = Versioned.of(repository)
        opened, traffic = source.open(path, index_path_of(path), array)
        snapshot = cls(source, opened.array, path)
        snapshot._head = opened.group
        snapshot.stats.add(traffic)
        return snapshot

    def is_current(self) -> bool:
        """Return whether `of` would look at the same version; False where it would have to ask the storage."""
        return isinstance(self._source, Versioned) and self._source.is_current()

    def again(self) -> "Snapshot":
        """Return the same view for another call."""
        snapshot = Snapshot(self._source, self._array, self._path)
        snapshot._head = self._head
        return snapshot

    @property
    def array(self) -> AnyArray:
        """The source. On a zarrvec store it is the array of this view, however old the handle is that was given."""
        return self._array

    def to_write(self, array: AnyArray) -> AnyArray:
        """Return the array of this view of a zarrvec store as one that the open transaction writes, by the handle that was given.

        Writes of its metadata rest on what the view has read of that.
        """
        assert isinstance(self._source, Versioned)
        self._source.rest_on(documents_of(self._path, array))
        handle = copy.copy(self._array.async_array)
        object.__setattr__(handle, "store_path", array.store_path)
        return Array(handle)

    @property
    def index_path(self) -> str:
        """Path of the group of the index: in the repository of a zarrvec store, else in the store that it lies in."""
        self._settle()
        return index_path_of(self._path)

    @property
    def target(self) -> StorePath:
        """Where the group of the index is written, on a zarrvec store by the handle that was given."""
        path = self.index_path  # first, for it tells which source
        return self._source.place_of(path)

    def inside(self) -> "Snapshot | None":
        """Look in the array for an index that this view doesn't see for its own place; None if there can't be one."""
        self._settle()
        if self.is_versioned or not self._path:
            return None
        place = self._array.store_path
        store = StoreBelow(place.store, place.path) if place.path else place.store
        return Snapshot(Plain(store=store), self._array, "")

    @property
    def is_versioned(self) -> bool:
        """Whether the array is on a zarrvec store."""
        return isinstance(self._source, Versioned)

    @property
    def transaction(self) -> Transaction | None:
        """The transaction that is open on the array's store in the caller's thread or task."""
        return self._source.repository.transaction if isinstance(self._source, Versioned) else None

    @property
    def version(self) -> int | None:
        """Number of the commit that is seen, or that the open transaction rests on; None on other stores."""
        return self._source.view.version.number if isinstance(self._source, Versioned) else None

    @property
    def token(self) -> Token | None:
        """Equal tokens: nothing in the store differs. None where that isn't known: in a transaction, on other stores."""
        return self._source.token if isinstance(self._source, Versioned) else None

    def head(self) -> dict[str, Any] | None:
        """Return what the index says of itself; None if there is no index. Elsewhere than on a zarrvec store, one request once.

        Raises
        ------
        CorruptError
            If the metadata of its group can't be read.
        """
        if not self._settle() and not self._is_read:
            found = self._fetch([Want("zarr.json")])[0]
            self._head = None if found is None else bytes(found)
        self._is_read = True
        if self._head is None:
            return None
        try:
            head: dict[str, Any] | None = json.loads(self._head).get("attributes", {}).get(ATTRIBUTE)
        except (ValueError, AttributeError, RecursionError) as error:
            raise CorruptError(
                f"{self._source.name}, {self.index_path}/zarr.json: no metadata of a zarr group ({error}). Make the index "
                "anew: array.vec.drop_index(), then array.vec.build_index()."
            ) from error
        return head

    def is_there(self) -> bool:
        """Return whether the group of the index has a metadata document, damaged or not; as `head`, one request at most."""
        with contextlib.suppress(CorruptError):
            self.head()
        return self._head is not None

    @property
    def document(self) -> bytes | None:
        """Metadata document of the group of the index, as `head` read it last; None if there was none."""
        return self._head

    def read(self, wants: Sequence[Want]) -> list[memoryview]:
        """Read parts of the index, with keys below its group, in one wave of requests.

        Raises
        ------
        CorruptError
            If a value is not there, or too short.
        """
        return [self._check(want, part) for want, part in zip(wants, self._fetch(wants), strict=True)]

    def read_with_generations(
        self, wants: Sequence[Want], later: Sequence[str] = ()
    ) -> tuple[list[memoryview], Generations | None]:
        """Do what `generations` and `read` do, in as few waves as that takes.

        Parameters
        ----------
        wants
            As for `read`.
        later
            First keys of arrays that are read next: where their chunks are is found out along with the rest.
        """
        source = self._source
        if not wants or not isinstance(source, Versioned) or source.known_generations(self._path) is not None:
            return self.read(wants), self.generations()
        parts, generations, traffic = source.read_with_generations(
            self._path, self.units, self._placed(wants), [f"{self.index_path}/{key}" for key in later]
        )
        self.stats.add(traffic)
        return [self._check(want, part) for want, part in zip(wants, parts, strict=True)], generations

    def generations(self) -> Generations | None:
        """Return the number of the commit that wrote each unit of the array last; see `zarrvec.search.units`.

        Returns
        -------
        (units,) uint64 or None
            Read-only. 0 where nothing is stored, `STAGED` for what the open transaction wrote. None on other stores.
        """
        if not isinstance(self._source, Versioned):
            return None
        known = self._source.known_generations(self._path)
        if known is not None:
            return known
        generations, traffic = self._source.generations(self.units())
        self.stats.add(traffic)
        return generations

    def covered(self) -> Covered | None:
        """Return what an index covers that is made of the array as it is now; None on other stores."""
        transaction = self.transaction
        written = None if transaction is None else transaction.staging.watch()
        generations = self.generations()
        return None if generations is None else Covered(generations, written)

    def generation(self, key: str) -> int | None:
        """Return the number of the commit that wrote a value of the index last, 0 if there is none; None on other stores."""
        if not isinstance(self._source, Versioned):
            return None
        return self._source.generation(f"{self.index_path}/{key}")

    def changed(
        self, since: Generations, grid: tuple[int, ...], *, staged_at: int | None = None
    ) -> npt.NDArray[np.bool_] | None:
        """Return which units of the array differ from what they were.

        Parameters
        ----------
        since
            Their generations then, (units of that time,) uint64.
        grid
            Units along each axis then.
        staged_at
            The commit that came of the transaction in which `since` was taken, if it was: see `changed_units`.

        Returns
        -------
        (units,) bool or None
            None on other stores.
        """
        now = self.generations()
        return (
            None if now is None else changed_units(now, self.units().grid, since, grid, staged_at=staged_at)
        )

    def units(self) -> Units:
        """Return the units in which the array is stored."""
        if self._units is None:
            self._units = Units.of(self._array, self._path)
        return self._units

    def _settle(self) -> bool:
        """Find out, once, where the index of an array lies that is all of a plain store; return whether its head was read."""
        higher, self._above = self._above, None
        if higher is None or not isinstance(self._source, Plain):
            return False
        found, traffic = find(self._source, index_path_of(""), higher, index_path_of(higher.name))
        self.stats.add(traffic)
        self._head, self._is_read = found.document, True
        if found.is_beside:
            self._source, self._path, self._units = Plain(store=higher.store), higher.name, None
        return True

    def _fetch(self, wants: Sequence[Want]) -> list[memoryview | None]:
        if not wants:
            return []
        parts, traffic = self._source.read(self._placed(wants))
        self.stats.add(traffic)
        return parts

    def _placed(self, wants: Sequence[Want]) -> list[Want]:
        path = self.index_path
        return [Want(f"{path}/{want.key}", want.start, want.stop) for want in wants]

    def _check(self, want: Want, part: memoryview | None) -> memoryview:
        if part is None:
            raise self._corrupt(want.key, "missing, but the index names it")
        length = want.stop - want.start if want.stop is not None else max(0, -want.start)
        if len(part) < length:
            raise self._corrupt(want.key, f"{len(part)} bytes at {want.start}, expected {length}")
        return part

    def _corrupt(self, key: str, problem: str) -> CorruptError:
        return CorruptError(
            f"{self._source.name}, {self.index_path}/{key}: {problem}. "
            "Build the index anew: array.vec.build_index()."
        )
