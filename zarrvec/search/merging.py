"""How do the lists of one segment become part of another?"""

from typing import Final

import numpy as np
import numpy.typing as npt

from zarrvec.search.depth import waves
from zarrvec.search.lists import read_lists
from zarrvec.search.places import Snapshot
from zarrvec.search.quantize import Codes
from zarrvec.search.roots import Part
from zarrvec.search.spool import Spool
from zarrvec.search.storing import take

_WAVE_BYTES: Final = 64 << 20


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
