"""What does a worker of a cluster do for a rechunking? It copies blocks, for the coordinator to commit.

Source: ``specs/decisions/0014-work-on-a-cluster.md``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from zarr.storage import StorePath
from zarr.types import AnyArray

from zarrvec.adapt.copying import Copying, plan_copying
from zarrvec.adapt.source import array_of
from zarrvec.adapt.target import Documents
from zarrvec.engine.engine import Place
from zarrvec.engine.staging import HandedOver
from zarrvec.errors import OptionError
from zarrvec.faces.apart import Apart
from zarrvec.faces.store import ZarrVecStore
from zarrvec.layout.blocking import Edges
from zarrvec.repository import Repository

_MORE_READS: Final = 1.25
"""Blocks are made smaller, so that all workers have some, as long as no more than so many times the chunks are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What is copied, and where to. It pickles."""

    copying: Copying
    place: Place | StorePath
    """The zarrvec store; or where the copy lies on another store."""
    path: str
    """Of the copy in the zarrvec store."""
    target: Documents
    """Of the copy."""


def copy_block(shared: Shared, block: Sequence[slice]) -> HandedOver | None:
    """Copy a block of units; return what is to be committed, None on a store without versions."""
    copying = shared.copying
    values = copying.read(block, _ignore)
    if isinstance(shared.place, StorePath):
        copying.write(block, values, array_of(shared.place, shared.target), _ignore)
        return None
    repository = Repository(shared.place, trace=False)
    with Apart(repository) as apart:
        into = array_of(StorePath(ZarrVecStore(repository), shared.path), shared.target)
        copying.write(block, values, into, _ignore)
    return apart.handed


def plan_shared(
    source: AnyArray, edges: Sequence[Edges], units: tuple[int, ...], memory_bytes: int, tasks: int
) -> Copying:
    """Choose the blocks of a copy that workers make, at least so many if that does not cost much.

    Parameters
    ----------
    source, edges, units
        As for `zarrvec.adapt.copying.plan_copying`.
    memory_bytes
        Bound on the decoded cells that a worker holds.
    tasks
        Blocks that are wanted.

    Raises
    ------
    OptionError
        If memory does not suffice for one unit of either.

    Examples
    --------
    >>> import zarr
    >>> from zarrvec.layout.blocking import edges_of
    >>> array = zarr.create_array({}, shape=(64, 8), chunks=(1, 8), dtype="u1")
    >>> edges = [edges_of(64, 1), edges_of(8, 8)]
    >>> plan_shared(array, edges, (4, 8), 1 << 20, tasks=1).blocking.units
    (16, 1)
    >>> plan_shared(array, edges, (4, 8), 1 << 20, tasks=8).blocking.units
    (2, 1)
    """
    widest = copying = plan_copying(source, edges, units, memory_bytes)
    memory_bytes = min(memory_bytes, 2 * source.nbytes)
    while _count(copying) < tasks:
        memory_bytes //= 2
        try:
            smaller = plan_copying(source, edges, units, memory_bytes)
        except OptionError:
            break
        if smaller.blocking.reads > _MORE_READS * widest.blocking.reads:
            break
        copying = smaller
    return copying


def _count(copying: Copying) -> int:
    lengths = [max(1, unit) * each for unit, each in zip(copying.units, copying.blocking.units, strict=True)]
    return math.prod(-(-length // cells) for length, cells in zip(copying.source.shape, lengths, strict=True))


def _ignore(cells: int) -> None:
    del cells
