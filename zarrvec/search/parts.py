"""What does a worker of a cluster do for a build? It places a part of the rows, keeps their entries, and writes a part of the lists.

Functions of values, which give the same when they are called again on another worker. Source:
``specs/decisions/0014-work-on-a-cluster.md``.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import StorePath
from zarr.types import AnyArray

from zarrvec.engine.engine import Place
from zarrvec.engine.staging import HandedOver
from zarrvec.errors import ClusterError
from zarrvec.faces.apart import Apart
from zarrvec.faces.store import ZarrVecStore
from zarrvec.repository import Repository
from zarrvec.search.assigning import Assignment, Space, assign, read_blocks
from zarrvec.search.blocks import Block
from zarrvec.search.records import Checksums, Layout
from zarrvec.search.spool import Records, Spool, entries_of, record_dtype
from zarrvec.search.storing import pack_runs, write_lists

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class Sampled(NamedTuple):
    """Rows of a part that are in the sample."""

    finite: Int64
    """Ids of all rows of the part that can be indexed, in the order of reading; empty if they were not asked for."""
    ids: Int64
    """Those in the sample, in the same order."""
    vectors: Float32
    rows: int
    """Rows that were read."""


class Part(NamedTuple):
    """The entries of a part of the rows, as a worker keeps them. A tuple of arrays, so that dask knows what it takes."""

    lists: Int32
    """(m,) int32 ascending: the list of each entry."""
    records: Records
    """(m,) the entries; those of one list in the order in which rows went by."""
    ids: Int64
    """(n,) the rows, ascending."""
    lists_of: Int32
    """(n, 2) int32: the lists of each row, the nearest first, -1 for none."""
    entry_of: Int64
    """(n,) where its entry in the nearest one is."""
    summary: "Summary"


class Summary(NamedTuple):
    """What the coordinator needs to know of a part."""

    rows: int
    """Rows that are indexed."""
    read: int
    """Rows that were read."""
    lists: Int32
    """(l,) int32: lists that have entries here."""
    counts: Int64
    """(l,) how many each."""
    radii: Float32
    """(l,) float32, of the same lists."""
    squares: list[float]
    """As `zarrvec.search.assigning.Tally` has it."""
    neighbours: Int64
    """(c, t) ids: the nearest rows of the part, of each query of the calibration."""
    scores: npt.NDArray[np.float64]
    """(c, t) their scores."""
    beyond: Int64
    """Ids of finite rows that can't be indexed."""


class Found(NamedTuple):
    """Some rows of a part."""

    ids: Int64
    lists_of: Int32
    records: Records


class Range(NamedTuple):
    """The entries that a worker writes."""

    rows: tuple[int, int]
    """First row of the array of entries, and the one after the last: whole chunks or shards."""
    lists: tuple[int, int]
    """First list that has entries among them, and the one after the last."""
    start: int
    """Where the first of these lists begins, which may be before the rows."""


class Written(NamedTuple):
    """What a worker has written."""

    crcs: Checksums
    """Of the lists of its range."""
    handed: HandedOver | None
    """The chunks, for a commit; None on a store without versions, where they are written."""


class Target(NamedTuple):
    """Where the array of entries is, which need not be there yet."""

    place: Place | StorePath
    """The zarrvec store; or the place of the array on another store."""
    key: str
    """Path of the array in the zarrvec store."""
    metadata: dict[str, Any]
    """Of the array."""


def sample_part(
    array: AnyArray,
    blocks: Sequence[Block],
    space: Space,
    wanted: Int64,
    tells_finite: bool,  # noqa: FBT001 - tasks take values by position
) -> Sampled:
    """Read the rows of some blocks that are in the sample.

    Parameters
    ----------
    array, blocks
        What is read.
    space
        In which it is wanted.
    wanted
        Ids of the sample.
    tells_finite
        Whether to tell which rows there are besides.
    """
    finite, ids, vectors, count = [], [], [np.empty((0, array.shape[-1]), dtype=np.float32)], 0
    for read in read_blocks(array, blocks, space):
        chosen = np.isin(read.ids, wanted, assume_unique=True)
        if tells_finite:
            finite.append(read.ids)
        ids.append(read.ids[chosen])
        vectors.append(read.vectors[chosen])
        count += read.rows
    return Sampled(_joined(finite), _joined(ids), np.concatenate(vectors), count)


def place_part(array: AnyArray, blocks: Sequence[Block], given: Assignment) -> Part:
    """Put the rows of some blocks into lists."""
    ids: list[Int64] = []
    firsts: list[Int64] = []
    lists_of = [np.empty((0, 2), dtype=np.int32)]
    beyond: list[Int64] = []
    count = 0

    def rows() -> Any:
        nonlocal count
        for read in read_blocks(array, blocks, given.space):
            beyond.append(read.beyond)
            count += read.rows
            yield read.ids, read.vectors

    def note(some: Int64, placed: Int32, first: Int64) -> None:
        ids.append(some)
        lists_of.append(placed)
        firsts.append(first)

    with Spool(given.layout) as spool:
        tally = assign(given, rows(), spool, note)
        order, counts = spool.sort(len(given.table.heads))
        records = np.asarray(spool.records(order))
    at = np.empty(len(order), dtype=np.int64)
    at[order] = np.arange(len(order))
    rising = np.argsort(_joined(ids))
    used = np.flatnonzero(counts).astype(np.int32)
    summary = Summary(
        tally.rows, count, used, counts[used], tally.radii[used], tally.squares, *tally.truth.found(), _joined(beyond)
    )  # fmt: skip
    return Part(
        np.repeat(used, counts[used]),
        records,
        _joined(ids)[rising],
        np.concatenate(lists_of)[rising],
        at[_joined(firsts)][rising],
        summary,
    )


def summary_of(part: Part) -> Summary:
    """Return what the coordinator needs to know."""
    return part.summary


def look_up(part: Part, ids: Int64) -> Found:
    """Return those of some rows that the part has, with their entries in the nearest lists; `ids` are ascending."""
    have = np.flatnonzero(np.isin(part.ids, ids, assume_unique=True))
    return Found(part.ids[have], part.lists_of[have], part.records[part.entry_of[have]])


def cut(part: Part, first: int, stop: int) -> tuple[Int32, Records]:
    """Return the entries of lists from `first` to before `stop`, and the list of each."""
    some = slice(*np.searchsorted(part.lists, [first, stop]).tolist())
    return part.lists[some], part.records[some]


def write_range(
    target: Target, wanted: Range, counts: Int64, layout: Layout, *cuts: tuple[Int32, Records]
) -> Written:
    """Write the entries of a range.

    Parameters
    ----------
    target
        Where.
    wanted
        Which.
    counts
        (lists,) entries of each of its lists.
    layout
        Of the lists.
    *cuts
        What each part has of them, of `cut`, in the order of the parts.

    Raises
    ------
    ClusterError
        If they are not those that were counted.
    """
    lists = np.concatenate([some for some, _ in cuts])
    if not np.array_equal(np.bincount(lists - wanted.lists[0], minlength=len(counts)), counts):
        raise ClusterError(
            f"lists {wanted.lists[0]} to {wanted.lists[1]}: {len(lists):,} entries, which are not those {counts.sum():,} that "
            "were counted. Rows were read or placed again after a worker had died, and came out otherwise: the array was "
            "changed meanwhile, or workers have unlike processors. Call again."
        )
    order = np.argsort(lists, kind="stable")
    records = np.concatenate([np.empty(0, dtype=record_dtype(layout)), *(some for _, some in cuts)])
    entries = entries_of(records, layout)
    packed = pack_runs(lambda run, counts: layout.pack_lists(entries, order[run], counts), counts)

    def write(place: StorePath) -> Checksums:
        array = zarr.Array.from_dict(place, target.metadata)
        return write_lists(array, packed, counts, layout, start=wanted.start, rows=wanted.rows)

    if isinstance(target.place, StorePath):
        return Written(write(target.place), None)
    repository = Repository(target.place, trace=False)
    with Apart(repository) as apart:
        crcs = write(StorePath(ZarrVecStore(repository), target.key))
    return Written(crcs, apart.handed)


def _joined(parts: list[Int64]) -> Int64:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
