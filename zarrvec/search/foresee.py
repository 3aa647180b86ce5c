"""What would it cost to read parts of an index? The same plan as for reading, not carried out.

Manifest pages that are not in memory are fetched, and counted: without them nobody knows where anything is.
"""

from collections.abc import Sequence

from zarrvec.engine.bridge import run_sync
from zarrvec.engine.traffic import Traffic, counting
from zarrvec.format.table import CRC_BYTES
from zarrvec.layout.coalesce import READ_BYTES, Range, coalesce, split_long
from zarrvec.search.places import Snapshot
from zarrvec.search.sources import GAP_BYTES, Versioned, Want
from zarrvec.types import Entry


def foresee(snapshot: Snapshot, wants: Sequence[Want]) -> Traffic:
    """Return what one wave of reads through a snapshot costs.

    Parameters
    ----------
    wants
        As for `Snapshot.read`, with both ends given.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> array = zarr.create_array(zarr.storage.MemoryStore(), name="emb", data=np.eye(3, dtype="f4"))
    >>> foresee(Snapshot.of(array), [Want("a/c/0", 0, 10), Want("a/c/0", 40, 50), Want("a/c/1", 0, 10)])
    Traffic(requests=2, bytes=60, rounds=1)
    """
    if not wants:
        return Traffic()
    source, placed = snapshot._source, snapshot._placed(wants)
    if isinstance(source, Versioned):
        entries, traffic = run_sync(_locate(source, placed))
        ranges = [
            _range_of(want, entry)
            for want, entry in zip(placed, entries, strict=True)
            if entry is not None and entry.data is None
        ]
    else:
        traffic = Traffic()
        ranges = [
            Range(want.key.encode(), want.start, (want.stop or want.start) - want.start) for want in placed
        ]
    for read in coalesce(ranges, gap=GAP_BYTES):
        traffic.requests += len(split_long(read.start, read.length, size=READ_BYTES + READ_BYTES // 8))
        traffic.bytes += read.length
    traffic.rounds += bool(ranges)
    return traffic


async def _locate(source: Versioned, wants: Sequence[Want]) -> tuple[list[Entry | None], Traffic]:
    reader = (await source.repository.engine()).reader
    with counting() as traffic:
        return await reader.locate(source.view, [want.key for want in wants]), traffic


def _range_of(want: Want, entry: Entry) -> Range:
    stop = entry.length if want.stop is None else min(want.stop, entry.length)
    is_whole = (want.start, stop) == (0, entry.length)
    return Range(entry.pack, entry.offset + want.start, stop - want.start + CRC_BYTES * is_whole)
