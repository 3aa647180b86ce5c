"""Where do entries wait until all of them are known? In a temporary file, in the order in which rows went by.

Memory holds the list of each entry and where each row's first entry is, and the entries only if they are few.
"""

import tempfile
from types import TracebackType
from typing import IO, Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from zarrvec.search.quantize import Codes
from zarrvec.search.records import Entries, Layout, Packed, take

Int64 = npt.NDArray[np.int64]
Records: TypeAlias = npt.NDArray[Any]
"""(n,) of `record_dtype`."""

MEMORY_BYTES: Final = 16 << 20
"""Entries of more bytes go to the file."""


def record_dtype(layout: Layout) -> np.dtype[Any]:
    """Return what an entry looks like while it waits."""
    return np.dtype(
        [
            ("id", f"<u{layout.id_bytes}"),
            ("scale", "<f4"),
            ("error", "<f4"),
            ("norm", "<f4"),
            ("codes", "u1", (layout.width,)),
        ]
    )


def entries_of(records: Records, layout: Layout) -> Entries:
    """Return entries that have waited."""
    return Entries(
        np.asarray(records["id"]),
        np.asarray(records["scale"]),
        np.asarray(records["error"]),
        np.asarray(records["norm"]) if layout.has_norms else None,
        np.asarray(records["codes"]),
    )


class Spool:
    """Entries on their way into posting lists.

    Parameters
    ----------
    layout
        Of the lists.
    folder
        Where the temporary file lies; None for the system's place.

    Examples
    --------
    >>> from zarrvec.search.quantize import quantize
    >>> with Spool(Layout(width=2, id_bytes=4, has_norms=False)) as spool:
    ...     vectors, centroids = np.array([[1, 2], [3, 3]], "f4"), np.zeros((2, 2), "f4")
    ...     spool.add(np.array([7, 8]), np.array([1, 0]), quantize(vectors, centroids))
    ...     order, counts = spool.sort(2)
    ...     spool.entries(order).ids.tolist(), counts.tolist()
    ([8, 7], [1, 1])
    """

    def __init__(self, layout: Layout, *, folder: str | None = None) -> None:
        self.layout: Final = layout
        self._dtype: Final = record_dtype(layout)
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._held: list[Entries] = []
        """What is not in the file."""
        self._held_count = 0
        self._lists: list[npt.NDArray[np.int32]] = []
        self.count = 0
        """Entries so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, ids: Int64, lists: npt.NDArray[np.integer[Any]], coded: Codes) -> None:
        """Add entries: (n,) ids, (n,) the list of each, and their codes, which must not change any more."""
        norms = coded.norms if self.layout.has_norms else None
        self._held.append(Entries(ids, coded.scales, coded.errors, norms, coded.codes))
        self._held_count += len(ids)
        if self._held_count * self._dtype.itemsize > MEMORY_BYTES:
            self._write_held()
        self._lists.append(lists.astype(np.int32))
        self.count += len(ids)

    def sort(self, nlist: int) -> tuple[Int64, Int64]:
        """Return the positions of all entries in the order of their lists, and the (nlist,) entries of each list."""
        lists = np.concatenate(self._lists) if self._lists else np.empty(0, dtype=np.int32)
        order = np.argsort(lists, kind="stable").astype(np.int64, copy=False)
        return order, np.bincount(lists, minlength=nlist).astype(np.int64)

    def rows(self) -> int:
        """Return how many rows the entries are of."""
        return len(np.unique(self.entries(np.arange(self.count)).ids)) if self.count else 0

    def entries(self, positions: Int64) -> Entries:
        """Return some entries, by their positions in the order of adding."""
        if self._file is not None:
            return entries_of(self.records(positions), self.layout)
        return take(self._together(), positions)

    def packed(self, positions: Int64, counts: Int64) -> Packed:
        """Return posting lists of some entries, as `zarrvec.search.records.Layout.pack_lists` does."""
        if self._file is None:
            return self.layout.pack_lists(self._together(), positions, counts)
        entries = self.entries(positions)
        return self.layout.pack_lists(entries, np.arange(len(positions)), counts)

    def records(self, positions: Int64) -> Records:
        """Return some entries as they lie in the file."""
        if self._file is None:
            return self._records_of(self.entries(positions))
        self._write_held()
        self._file.flush()
        records: Records = np.memmap(self._file, dtype=self._dtype, mode="r", shape=(self.count,))[positions]
        return records

    def _together(self) -> Entries:
        """Return what is in memory as one."""
        if len(self._held) != 1:
            nothing = entries_of(np.empty(0, dtype=self._dtype), self.layout)
            ids, scales, errors, norms, codes = zip(nothing, *self._held, strict=True)
            self._held = [
                Entries(
                    np.concatenate(ids),
                    np.concatenate(scales),
                    np.concatenate(errors),
                    np.concatenate(norms) if self.layout.has_norms else None,
                    np.concatenate(codes),
                )
            ]
        return self._held[0]

    def _records_of(self, entries: Entries) -> Records:
        records: Records = np.zeros(len(entries.ids), dtype=self._dtype)
        for name, values in zip(("id", "scale", "error", "norm", "codes"), entries, strict=True):
            if values is not None:
                records[name] = values
        return records

    def _write_held(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by __exit__
        for entries in self._held:
            self._file.write(self._records_of(entries).data)
        self._held, self._held_count = [], 0
