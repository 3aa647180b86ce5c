"""How do the lists of one segment become part of another?"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.search.depth import waves
from zarrvec.search.lists import read_lists, read_runs
from zarrvec.search.places import Snapshot
from zarrvec.search.quantize import Codes
from zarrvec.search.records import Entries, Layout, join_lists, take
from zarrvec.search.roots import Part
from zarrvec.search.spool import Spool
from zarrvec.search.storing import Checksums, runs_of_lists, write_lists

Int64 = npt.NDArray[np.int64]

_WAVE_BYTES: Final = 64 << 20


class Listed(NamedTuple):
    """Entries in the order of their lists."""

    counts: Int64
    """(nlist,) entries of each list."""
    entries_in: Callable[[slice], Entries]
    """Returns some, by their positions."""


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

    def _packed(self, layout: Layout) -> Iterator[bytes]:
        sizes = self.counts * layout.entry_bytes
        starts = np.cumsum(self._new.counts) - self._new.counts
        for wave in waves(np.arange(len(sizes)), sizes, _WAVE_BYTES):
            stored = read_runs(self._snapshot, self._parts, wave)
            for some, _ in runs_of_lists(self.counts[wave]):
                numbers = wave[some]
                counts, start = self._new.counts[numbers], int(starts[numbers[0]])
                entries = self._new.entries_in(slice(start, start + int(counts.sum())))
                sources: list[Iterable[Sequence[bytes]]] = [layout.cut(entries, counts.tolist())]
                sources += [
                    map(layout.cut_packed, lists[some], part.counts[numbers].tolist())
                    for part, lists in zip(self._parts, stored, strict=True)
                ]
                yield join_lists(sources)


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
            norms = np.zeros_like(taken.scales) if taken.norms is None else taken.norms
            coded = Codes(taken.codes, taken.scales, taken.errors, norms)
            goes_to = number if numbers is None else numbers[number]
            spool.add(ids, np.full(len(ids), goes_to), coded)
