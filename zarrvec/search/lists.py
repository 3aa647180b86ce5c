"""How are posting lists read and checked?

Source: ``specs/vector-index.md``, section "Reading".
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from zarrvec.errors import CorruptError
from zarrvec.format.envelope import crc32c
from zarrvec.search.arena import Arena
from zarrvec.search.cache import LISTS, CachedList
from zarrvec.search.entries import Span
from zarrvec.search.kernels import is_compiled
from zarrvec.search.places import Snapshot, undamaged
from zarrvec.search.roots import Part
from zarrvec.search.sources import Want

Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_ARENA: Final = Arena()
_UNCOPIED_BYTES: Final = 8 << 20
"""Up to so many bytes of lists are kept where they were read into. A first search is done before their copies would pay."""


def read_lists(
    snapshot: Snapshot, asked: Sequence[tuple[Part, Int64]], bits: int
) -> list[dict[int, CachedList]]:
    """Return posting lists, from memory or by one wave of requests, checked.

    Parameters
    ----------
    asked
        For each of some segments, the ascending numbers of lists in it that are not empty.
    bits
        4 to leave the low planes out, 8 to read all.

    Returns
    -------
    list of dict
        For each segment, lists by number.

    Raises
    ------
    CorruptError
        If a list doesn't match its checksum.
    """
    found: list[dict[int, CachedList]] = []
    missing: list[tuple[Part, Int64, list[Span], list[Want]]] = []
    for part, numbers in asked:
        wanted = numbers.tolist()
        held = LISTS.get_many([(part.id, number) for number in wanted])
        lists = {number: kept for (_, number), kept in held.items() if kept.bits >= bits}
        found.append(lists)
        absent = np.empty(0, dtype=np.int64)
        if len(lists) < len(wanted):
            absent = np.array([number for number in wanted if number not in lists], dtype=np.int64)
        spans = part.spans(absent, bits) if absent.size else []
        missing.append((part, absent, spans, part.entries.wants(spans)))
    wants = [more for *_, more in missing]

    def read() -> None:
        data = parts_of(snapshot.read([want for more in wants for want in more]), map(len, wants))
        for lists, blocks, (part, absent, spans, _) in zip(found, data, missing, strict=True):
            lists.update(_keep(part, absent, part.entries.join(spans, blocks), bits, snapshot.index_path))

    if any(wants):
        undamaged(read)
    return found


def _keep(
    part: Part, numbers: Int64, blocks: Sequence[memoryview], bits: int, name: str
) -> dict[int, CachedList]:
    """Check lists and put them into memory."""
    lists = {}
    kept_as = _way_to_keep(blocks)
    heads = (part.counts[numbers] * part.layout.head_bytes(1)).tolist()
    stored_crcs = part.crcs[numbers].tolist()
    for number, block, head, (crc_head, crc_low) in zip(
        numbers.tolist(), blocks, heads, stored_crcs, strict=True
    ):
        size = head if bits == 4 else len(block)
        data = kept_as(np.frombuffer(block, dtype=np.uint8)[:size])
        if crc32c(data[:head]) != crc_head or (bits == 8 and crc32c(data[head:]) != crc_low):
            raise _damaged(part, number, name)
        lists[number] = CachedList(data, bits)
    LISTS.put_many({(part.id, number): (kept, kept.data.nbytes) for number, kept in lists.items()})
    return lists


def _way_to_keep(blocks: Sequence[memoryview]) -> Callable[[Bytes], Bytes]:
    """Return what makes of lists, as they were read, what is kept of them.

    They are copied apart from what was read with them, unless that is little, none of it can change, and few are held: so
    no more than twice `_UNCOPIED_BYTES` are kept alive, nor more than the cache may hold.
    """
    if is_compiled():
        return _ARENA.copy_of
    listed = sum(map(len, blocks))
    most = min(_UNCOPIED_BYTES, LISTS.limit_bytes // 2)
    read = {id(block.obj): memoryview(block.obj) for block in blocks}.values()
    few = LISTS.bytes_held + listed <= most and sum(data.nbytes for data in read) <= 2 * listed
    return _as_it_is if few and all(data.readonly for data in read) else np.copy


def _as_it_is(data: Bytes) -> Bytes:
    return data


def _damaged(part: Part, number: int, name: str) -> CorruptError:
    return CorruptError(
        f"{name}/{part.id}/entries: list {number} at entry {part.offsets[number]} doesn't match its checksum. "
        "Build the index anew: array.vec.build_index()."
    )


def read_runs(snapshot: Snapshot, parts: Sequence[Part], numbers: Int64) -> list[memoryview]:
    """Return the lists of consecutive numbers of each of some segments, read whole by one wave of requests, checked; none is kept.

    Raises
    ------
    CorruptError
        If a list doesn't match its checksum.
    """
    spans = []
    for part in parts:
        there = numbers[part.counts[numbers] > 0]
        spans.append(
            [(part.spans(there[:1], 8)[0][0], part.spans(there[-1:], 8)[0][1])] if there.size else []
        )
    wants = [part.entries.wants(span) for part, span in zip(parts, spans, strict=True)]

    def read() -> list[memoryview]:
        data = parts_of(snapshot.read([want for some in wants for want in some]), map(len, wants))
        runs = []
        for part, span, blocks in zip(parts, spans, data, strict=True):
            (block,) = part.entries.join(span, blocks) or [memoryview(b"")]
            _check(part, numbers, block, snapshot.index_path)
            runs.append(block)
        return runs

    return undamaged(read)


def _check(part: Part, numbers: Int64, block: memoryview, name: str) -> None:
    """Check the lists of consecutive numbers."""
    found = part.layout.checksums(block, part.counts[numbers])
    damaged = numbers[(found != part.crcs[numbers]).any(axis=1)]
    if damaged.size:
        raise _damaged(part, int(damaged[0]), name)


def keep_whole(part: Part, block: memoryview | bytes, name: str) -> None:
    """Cut a segment that was read whole into its lists."""
    numbers = np.flatnonzero(part.counts)
    starts = part.offsets[numbers] * part.layout.entry_bytes
    ends = starts + part.sizes(8, numbers)
    view = memoryview(block)
    _keep(part, numbers, [view[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)], 8, name)


def parts_of(data: Sequence[memoryview], lengths: Iterable[int]) -> list[list[memoryview]]:
    """Cut what one wave of requests has brought into parts of these lengths."""
    left = iter(data)
    return [list(islice(left, length)) for length in lengths]
