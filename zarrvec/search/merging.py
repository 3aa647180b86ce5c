"""How do the lists of one segment become part of another?"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.search.depth import waves
from zarrvec.search.lists import read_lists, read_runs
from zarrvec.search.places import Snapshot
from zarrvec.search.quantize import Codes
from zarrvec.search.records import Checksums, Layout, Packed, take
from zarrvec.search.roots import Part
from zarrvec.search.spool import Spool
from zarrvec.search.storing import pack_runs, write_lists

Int64 = npt.NDArray[np.int64]

_WAVE_BYTES: Final = 64 << 20


class Listed(NamedTuple):
    """Entries in the order of their lists."""

    counts: Int64
    """(nlist,) entries of each list."""
    pack: Callable[[slice, Int64], Packed]
    """Returns the bytes of lists, given which of the entries, and how many in each."""


class JoinedLists:
    """Lists that are put together, as they are written, of new entries and those of segments; see `zarrvec.search.storing.Lists`.

    Parameters
    ----------
    snapshot
        That the segments were opened from.
    parts
        The segments.
    new
        What comes before their entries in each list.
    ahead
        See `zarrvec.search.storing.Lists`.
    """

    def __init__(self, snapshot: Snapshot, parts: Sequence[Part], new: Listed, *, ahead: bool) -> None:
        self._snapshot, self._parts, self._new = snapshot, parts, new
        self.ahead: Final = ahead
        self.counts: Int64 = np.sum([new.counts, *(part.counts for part in parts)], axis=0)
        """(nlist,) entries of each list."""

    def write(
        self, array: AnyArray, counts: Int64, layout: Layout, progress: Callable[[int, int], None] | None
    ) -> Checksums:
        """See `zarrvec.search.storing.Lists`."""
        return write_lists(array, self._packed(layout), counts, layout, progress=progress, ahead=self.ahead)

    def close(self) -> None:
        """See `zarrvec.search.storing.Lists`."""

    def _packed(self, layout: Layout) -> Iterator[Packed]:
        if not self._parts:
            yield from pack_runs(self._new.pack, self.counts)
            return
        start = 0
        for wave in waves(np.arange(len(self.counts)), self.counts * layout.entry_bytes, _WAVE_BYTES):
            counts = self._new.counts[wave]
            run = slice(start, start + int(counts.sum()))
            stored = read_runs(self._snapshot, self._parts, wave)
            there = [(block, part.counts[wave]) for part, block in zip(self._parts, stored, strict=True)]
            yield layout.join_lists([(self._new.pack(run, counts), counts), *there])
            start = run.stop


def copy_lists(
    snapshot: Snapshot,
    part: Part,
    spool: Spool,
    *,
    kept: npt.NDArray[np.bool_] | None = None,
    left_out: npt.NDArray[np.bool_] | None = None,
    numbers: npt.NDArray[np.int64] | None = None,
) -> None:
    """Put the entries of a segment into a spool, list by list.

    Parameters
    ----------
    snapshot
        That the segment was opened from.
    part
        The segment.
    spool
        Where they go.
    kept
        (n,) which ids to take; those from n on are not taken. None for all.
    left_out
        (nlist,) lists that are not taken. None for none.
    numbers
        (nlist,) the number that each list gets. None for its own.
    """
    there = part.counts > 0 if left_out is None else (part.counts > 0) & ~left_out
    taken_lists = np.flatnonzero(there)
    for wave in waves(taken_lists, part.sizes(8, taken_lists), _WAVE_BYTES):
        (lists,) = read_lists(snapshot, [(part, wave)], 8)
        for number in wave.tolist():
            entries = part.layout.unpack(lists[number].data, int(part.counts[number]))
            ids = entries.ids.astype(np.int64)
            taken = entries
            if kept is not None:
                which = np.flatnonzero(ids < len(kept))
                which = which[kept[ids[which]]]
                ids, taken = ids[which], take(entries, which)
            coded = Codes(taken.codes, taken.scales, taken.errors, taken.norms)
            goes_to = number if numbers is None else numbers[number]
            spool.add(ids, np.full(len(ids), goes_to), coded)
