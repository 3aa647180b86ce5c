"""What do a manifest page and a root look like, and which page can hold a key?

Source: ``specs/format.md``, sections "Manifest page" and "Root".
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final

import msgspec

from zarrvec.errors import CorruptError
from zarrvec.format.envelope import Kind, unwrap, wrap
from zarrvec.format.keys import prefix_ranges, sort_key
from zarrvec.format.records import check_extent, check_packs, decode_record
from zarrvec.format.table import Table, decode_keys, encode_keys, encode_table, planes, unplanes
from zarrvec.types import PACK_ID_BYTES, Entry, Location, PackRef, PageRef

PAGE_ENTRIES: Final = 4096
PAGE_RAW_BYTES: Final = 256 << 10
_ROW_BYTES: Final = 24


def encode_page(rows: Sequence[tuple[str, Entry]]) -> bytes:
    """Write one manifest page."""
    return wrap(Kind.PAGE, encode_table(rows))


def decode_page(data: bytes | memoryview, *, name: str, number: int) -> Table:
    """Read one manifest page; `number` is that of the commit that wrote it."""
    return Table(unwrap(data, Kind.PAGE, name=name), name=name, base_generation=number)


def split_pages(rows: Iterable[tuple[str, Entry]]) -> Iterator[list[tuple[str, Entry]]]:
    """Cut sorted rows into pages of at most 4,096 entries or about 256 KiB."""
    page: list[tuple[str, Entry]] = []
    size = 0
    for row in rows:
        row_bytes = len(row[0]) + _ROW_BYTES + len(row[1].data or b"")
        if page and (len(page) >= PAGE_ENTRIES or size + row_bytes > PAGE_RAW_BYTES):
            yield page
            page, size = [], 0
        page.append(row)
        size += row_bytes
    if page:
        yield page


class Root:
    """The pages of a version, in key order, and the packs that they refer to.

    Parameters
    ----------
    pages
        In key order, not overlapping.
    packs
        Every pack that a page refers to or lies in.
    """

    def __init__(self, pages: Sequence[PageRef] = (), packs: Iterable[PackRef] = ()) -> None:
        self.pages = tuple(pages)
        self.packs = dict(packs)

    @cached_property
    def _firsts(self) -> list[bytes]:
        return [sort_key(page.first) for page in self.pages]

    @cached_property
    def _lasts(self) -> list[bytes]:
        return [sort_key(page.last) for page in self.pages]

    def is_ordered(self) -> bool:
        """Return whether the pages stand in key order and none overlaps another."""
        return all(first <= last for first, last in zip(self._firsts, self._lasts, strict=True)) and all(
            last < first for last, first in zip(self._lasts, self._firsts[1:], strict=False)
        )

    def page_of(self, key: str) -> int | None:
        """Return the number of the page that may hold a key."""
        wanted = sort_key(key)
        index = bisect_right(self._firsts, wanted) - 1
        return index if index >= 0 and wanted <= self._lasts[index] else None

    def page_for(self, key: str) -> int:
        """Return the number of the page into which a new key belongs; 0 if there are none."""
        return max(bisect_right(self._firsts, sort_key(key)) - 1, 0)

    def pages_below(self, prefix: str) -> list[int]:
        """Return the numbers of the pages that may hold keys below a prefix, in their order."""
        found: list[int] = []
        for start, end in prefix_ranges(prefix):
            after = found[-1] + 1 if found else 0  # a page may reach from one range into the other
            found.extend(range(max(after, bisect_left(self._lasts, start)), bisect_left(self._firsts, end)))
        return found

    def covers(self, prefix: str, index: int) -> bool:
        """Return whether all keys of a page lie below a prefix."""
        first, last = self._firsts[index], self._lasts[index]
        return any(start <= first and last < end for start, end in prefix_ranges(prefix))

    def usage(self) -> dict[bytes, int]:
        """Bytes of values that the pages refer to in each pack."""
        totals = dict.fromkeys(self.packs, 0)
        for page in self.pages:
            for pack, size in page.usage:
                totals[pack] += size
        return totals


class _RootRecord(msgspec.Struct, array_like=True, frozen=True):
    keys: bytes
    packs: bytes
    pack_bytes: bytes
    page_packs: bytes
    offsets: bytes
    lengths: bytes
    counts: bytes
    numbers: bytes
    usage_counts: bytes
    usage_packs: bytes
    usage_bytes: bytes


def encode_root(root: Root) -> bytes:
    """Write a root."""
    numbers = {pack: number for number, pack in enumerate(root.packs)}
    record = _RootRecord(
        keys=encode_keys([key for page in root.pages for key in (page.first, page.last)]),
        packs=b"".join(root.packs),
        pack_bytes=planes(list(root.packs.values()), "<u8"),
        page_packs=planes([numbers[page.location.pack] for page in root.pages], "<u4"),
        offsets=planes([page.location.offset for page in root.pages], "<u8"),
        lengths=planes([page.location.length for page in root.pages], "<u4"),
        counts=planes([page.count for page in root.pages], "<u4"),
        numbers=planes([page.number for page in root.pages], "<u8"),
        usage_counts=planes([len(page.usage) for page in root.pages], "<u4"),
        usage_packs=planes([numbers[pack] for page in root.pages for pack, _ in page.usage], "<u4"),
        usage_bytes=planes([size for page in root.pages for _, size in page.usage], "<u8"),
    )
    return wrap(Kind.ROOT, msgspec.msgpack.encode(record))


def decode_root(data: bytes | memoryview, *, name: str, number: int) -> Root:
    """Read a root; `number` is that of the commit that wrote it.

    Raises
    ------
    CorruptError
        If its columns do not fit together.
    """
    record = decode_record(unwrap(data, Kind.ROOT, name=name), _RootRecord, name=name)
    try:
        keys = decode_keys(record.keys, name=name)
        count = len(keys) // 2
        packs = [record.packs[at : at + PACK_ID_BYTES] for at in range(0, len(record.packs), PACK_ID_BYTES)]
        value_bytes = unplanes(record.pack_bytes, "<u8").tolist()
        columns = [
            unplanes(column, dtype).tolist()
            for column, dtype in (
                (record.page_packs, "<u4"),
                (record.offsets, "<u8"),
                (record.lengths, "<u4"),
                (record.counts, "<u4"),
                (record.numbers, "<u8"),
                (record.usage_counts, "<u4"),
            )
        ]
        usage_packs = unplanes(record.usage_packs, "<u4").tolist()
        usage_bytes = unplanes(record.usage_bytes, "<u8").tolist()
        if (
            any(len(column) != count for column in columns)
            or len(keys) % 2
            or len(record.packs) % PACK_ID_BYTES
        ):
            raise CorruptError(f"{name}: the root's columns differ in length.")
        pages = []
        at = 0
        for index, (pack, offset, length, entries, written, used) in enumerate(zip(*columns, strict=True)):
            usage = zip(usage_packs[at : at + used], usage_bytes[at : at + used], strict=True)
            at += used
            check_extent(offset, length, "a page", name=name)
            pages.append(
                PageRef(
                    first=keys[2 * index],
                    last=keys[2 * index + 1],
                    location=Location(packs[pack], offset, length),
                    count=entries,
                    number=written or number,
                    usage=tuple((packs[which], size) for which, size in usage),
                )
            )
        if at != len(usage_packs) or at != len(usage_bytes):
            raise CorruptError(
                f"{name}: the root's pack usage has {len(usage_packs)} rows, its pages name {at}."
            )
        root = Root(pages, [PackRef(pack, size) for pack, size in zip(packs, value_bytes, strict=True)])
    except (ValueError, IndexError) as error:
        raise CorruptError(f"{name}: the root can't be read ({error}).") from error
    check_packs((PackRef(*item) for item in root.packs.items()), name=name)
    if not root.is_ordered():
        raise CorruptError(f"{name}: the root's pages overlap or are not in key order.")
    return root
