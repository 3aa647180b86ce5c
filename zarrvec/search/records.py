"""Which bytes are a posting list?

Pure: bytes to values and back. Source: ``specs/vector-index.md``, section "Entries".

A posting list of n entries is n * `Layout.entry_bytes` bytes: all ids, then all scales, errors, norms (``l2`` only), then
the high and the low planes of the codes, so that a prefix of it is a coarser list. A code is a byte for each dimension,
128 standing for 0; byte j of a plane holds four bits of dimension j (low half) and of dimension j + h (high half), with
h = ceil(d / 2): a plane is unpacked by whole vectors of bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from zarrvec.format.envelope import crc32c

CODE_ZERO: Final = 128
"""The code that stands for 0."""
LIST_HEAD: Final = np.dtype(
    [
        ("offset", "<u8"),  # first entry, counted in entries
        ("count", "<u4"),  # entries
        ("crc_head", "<u4"),  # CRC32C of the list up to the end of the high planes
        ("crc_low", "<u4"),  # CRC32C of the low planes
        ("scale", "<f4"),  # centroid = scale * codes
        ("radius", "<f4"),  # no row of the list is farther from the centroid, in the indexed space
    ]
)
"""What precedes the int8 centroid in a row of the table of lists; 28 bytes."""
_BLOCK_ENTRIES: Final = 1 << 10
"""Entries whose codes are moved at once: few, for what is made of them on the way takes memory, but enough for few calls."""

Packed: TypeAlias = npt.NDArray[np.uint8]
"""(bytes,) uint8: posting lists that follow each other."""
Checksums: TypeAlias = npt.NDArray[np.uint32]
"""(n, 2) uint32: CRC32C of each list up to the end of the high planes, and of its low planes."""
Int64 = npt.NDArray[np.int64]


class Entries(NamedTuple):
    """The entries of one posting list, n of them."""

    ids: npt.NDArray[np.integer[Any]]
    """(n,) uint32 or uint64: rows of the source."""
    scales: npt.NDArray[np.float32]
    """(n,) float32: residual = scale * (code - 128)."""
    errors: npt.NDArray[np.float32]
    """(n,) float32: no less than the distance of the row from its decoded form."""
    norms: npt.NDArray[np.float32] | None
    """(n,) float32: squared length of the decoded row; for ``l2`` only."""
    codes: npt.NDArray[np.uint8]
    """(n, d) uint8."""


class Columns(NamedTuple):
    """The parts of a posting list of n entries as they are stored; see `Entries`."""

    ids: npt.NDArray[np.integer[Any]]
    """(n,) uint32 or uint64."""
    scales: npt.NDArray[np.float32]
    """(n,) float32."""
    errors: npt.NDArray[np.float32]
    """(n,) float32."""
    norms: npt.NDArray[np.float32] | None
    """(n,) float32; for ``l2`` only."""
    high: npt.NDArray[np.uint8]
    """(n, ceil(d / 2)) uint8."""
    low: npt.NDArray[np.uint8] | None
    """(n, ceil(d / 2)) uint8; None if they are not there."""


@dataclass(frozen=True, slots=False, kw_only=True)
class Layout:
    """Where the parts of a posting list are.

    Examples
    --------
    >>> layout = Layout(width=5, id_bytes=4, has_norms=False)
    >>> layout.half, layout.entry_bytes, layout.head_bytes(10), layout.list_bytes
    (3, 18, 150, 33)
    """

    width: int
    """Dimensions d of a vector."""
    id_bytes: int
    """4 or 8."""
    has_norms: bool
    """Whether entries carry the squared length."""

    @cached_property
    def half(self) -> int:
        """Bytes of one plane of an entry."""
        return (self.width + 1) // 2

    @cached_property
    def scalar_bytes(self) -> int:
        """Bytes of an entry before its planes."""
        return self.id_bytes + 8 + 4 * self.has_norms

    @cached_property
    def entry_bytes(self) -> int:
        """Bytes of an entry, all parts of it."""
        return self.scalar_bytes + 2 * self.half

    @cached_property
    def list_bytes(self) -> int:
        """Bytes of a row of the table of lists."""
        return LIST_HEAD.itemsize + self.width

    @cached_property
    def _columns(self) -> list[tuple[int, int]]:
        """Where the parts of a list of one entry begin and end."""
        scalars = [self.id_bytes, *(self.id_bytes + 4 * number for number in range(1, 3 + self.has_norms))]
        return list(pairwise([0, *scalars, self.head_bytes(1), self.entry_bytes]))

    def head_bytes(self, count: int) -> int:
        """Return the length of a list of that many entries without its low planes."""
        return count * (self.scalar_bytes + self.half)

    def total_bytes(self, count: int) -> int:
        """Return the length of a list of that many entries."""
        return count * self.entry_bytes

    def pack(self, entries: Entries) -> npt.NDArray[np.uint8]:
        """Return the bytes of a posting list.

        Examples
        --------
        >>> layout = Layout(width=3, id_bytes=4, has_norms=False)
        >>> ids, scales, errors = np.array([7]), np.array([0.5]), np.array([0.25])
        >>> packed = layout.pack(Entries(ids, scales, errors, None, np.array([[0x12, 0x34, 0x56]], "u1")))
        >>> packed.tobytes().hex(" ", 4)
        '07000000 0000003f 0000803e 51036204'
        """
        count = len(entries.ids)
        return self.pack_lists(entries, np.arange(count), np.array([count]))

    def pack_lists(self, entries: Entries, order: Int64, counts: Int64) -> Packed:
        """Return the bytes of posting lists that follow each other.

        Parameters
        ----------
        entries
            Those of the lists, and perhaps others.
        order
            (n,) positions of the entries, list by list.
        counts
            (lists,) how many each list has, n together.

        Examples
        --------
        >>> layout = Layout(width=1, id_bytes=4, has_norms=False)
        >>> ones = np.ones(2, "f4")
        >>> entries = Entries(np.array([7, 8]), ones, ones, None, np.array([[0x12], [0x34]], "u1"))
        >>> layout.pack_lists(entries, np.array([1, 0]), np.array([1, 1])).tobytes().hex(" ", 14)
        '080000000000803f0000803f0304 070000000000803f0000803f0102'
        """
        packed = np.empty(self.total_bytes(len(order)), dtype=np.uint8)
        firsts, sizes = np.repeat(np.cumsum(counts) - counts, counts), np.repeat(counts, counts)
        *scalars, high, low = self._places(firsts, sizes, np.arange(len(order)) - firsts)
        given = [entries.ids, entries.scales, entries.errors, entries.norms][: len(scalars)]
        for (starts, size), values, kind in zip(scalars, given, "ufff", strict=False):
            assert values is not None
            _values_at(packed, f"<{kind}{size}")[starts] = values[order]
        for part in _blocks_of(len(order)):
            planes = planes_of(entries.codes[order[part]])
            for (starts, size), plane in zip((high, low), planes, strict=True):
                _values_at(packed, f"V{size}")[starts[part]] = plane.view(f"V{size}")[:, 0]
        return packed

    def join_lists(self, sources: Sequence[tuple[Packed | memoryview, Int64]]) -> Packed:
        """Return posting lists that follow each other, with the entries of one source after those of another in each.

        Parameters
        ----------
        sources
            Of each, the bytes of the same lists, and the (lists,) entries that each has there.

        Examples
        --------
        >>> layout, ones = Layout(width=1, id_bytes=4, has_norms=False), np.ones(1)
        >>> one, two = (layout.pack(Entries(np.array([n]), ones, ones, None, np.array([[n]], "u1"))) for n in (7, 8))
        >>> layout.unpack(layout.join_lists([(one, np.array([1])), (two, np.array([1]))]), 2).ids.tolist()
        [7, 8]
        """
        counts = np.sum([some for _, some in sources], axis=0)
        joined = np.empty(self.total_bytes(int(counts.sum())), dtype=np.uint8)
        to, before = np.cumsum(counts) - counts, np.zeros_like(counts)
        for data, some in sources:
            firsts = np.repeat(np.cumsum(some) - some, some)
            places = np.arange(len(firsts)) - firsts
            taken = self._places(firsts, np.repeat(some, some), places)
            put = self._places(np.repeat(to, some), np.repeat(counts, some), places + np.repeat(before, some))
            for part in _blocks_of(len(firsts)):
                for (source, size), (target, _) in zip(taken, put, strict=True):
                    there = _values_at(np.frombuffer(data, dtype=np.uint8), f"V{size}")
                    _values_at(joined, f"V{size}")[target[part]] = there[source[part]]
            before += some
        return joined

    def checksums(self, data: Packed | memoryview, counts: Int64) -> Checksums:
        """Return those of posting lists that follow each other, of so many entries each.

        Examples
        --------
        >>> layout = Layout(width=1, id_bytes=4, has_norms=False)
        >>> layout.checksums(np.zeros(14, "u1"), np.array([0, 1])).tolist()
        [[0, 0], [3160122852, 1383945041]]
        """
        given, at, found = np.frombuffer(data, dtype=np.uint8), 0, []
        for count in counts.tolist():
            low, end = at + self.head_bytes(count), at + self.total_bytes(count)
            found.append((crc32c(given[at:low]), crc32c(given[low:end])))
            at = end
        return np.array(found, dtype=np.uint32).reshape(-1, 2)

    def _places(self, firsts: Int64, sizes: Int64, places: Int64) -> list[tuple[Int64, int]]:
        """Return where the parts of some entries begin, in lists that follow each other, and the bytes of each.

        Parameters
        ----------
        firsts, sizes, places
            (n,) the first entry of the list of each, how many the list has, and which of them it is.
        """
        return [
            (firsts * self.entry_bytes + sizes * start + places * (stop - start), stop - start)
            for start, stop in self._columns
        ]

    def unpack(
        self, data: npt.NDArray[np.uint8] | memoryview | bytes, count: int, *, bits: int = 8
    ) -> Entries:
        """Read a posting list; of one without low planes (``bits=4``) codes are the middle of what they may be.

        Examples
        --------
        >>> layout = Layout(width=3, id_bytes=4, has_norms=False)
        >>> packed = bytes.fromhex("07000000 0000003f 0000803e 51036204")
        >>> layout.unpack(packed, 1).codes.tolist(), layout.unpack(packed[:14], 1, bits=4).codes.tolist()
        ([[18, 52, 86]], [[24, 56, 88]])
        """
        ids, scales, errors, norms, high, low = self.columns(data, count, bits=bits)
        codes = np.concatenate(halves_of(high, low), axis=1)[:, : self.width]
        return Entries(ids, scales, errors, norms, codes)

    def columns(
        self, data: npt.NDArray[np.uint8] | memoryview | bytes, count: int, *, bits: int = 8
    ) -> Columns:
        """Find the parts of a posting list; of one without low planes with ``bits=4``.

        Examples
        --------
        >>> layout = Layout(width=3, id_bytes=4, has_norms=False)
        >>> parts = layout.columns(bytes.fromhex("07000000 0000003f 0000803e 51036204"), 1)
        >>> parts.ids.tolist(), parts.scales.tolist(), parts.errors.tolist(), parts.norms
        ([7], [0.5], [0.25], None)
        >>> parts.high.tolist(), parts.low.tolist()
        ([[81, 3]], [[98, 4]])
        """
        given = np.frombuffer(data, dtype=np.uint8)
        at = count * self.id_bytes
        high = count * self.scalar_bytes
        low = self.head_bytes(count)
        return Columns(
            ids=given[:at].view(f"<u{self.id_bytes}"),
            scales=given[at : at + 4 * count].view("<f4"),
            errors=given[at + 4 * count : at + 8 * count].view("<f4"),
            norms=given[at + 8 * count : high].view("<f4") if self.has_norms else None,
            high=given[high:low].reshape(count, self.half),
            low=given[low : self.total_bytes(count)].reshape(count, self.half) if bits == 8 else None,
        )


def _blocks_of(count: int) -> list[slice]:
    return [slice(start, start + _BLOCK_ENTRIES) for start in range(0, count, _BLOCK_ENTRIES)]


def _values_at(data: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[Any]:
    """Return the values that begin at each of some bytes: they overlap."""
    each = np.dtype(dtype)
    return np.ndarray((max(0, data.size - each.itemsize + 1),), each, data, strides=(1,))


def take(entries: Entries, which: Any) -> Entries:
    """Return some of the entries."""
    return Entries(
        entries.ids[which],
        entries.scales[which],
        entries.errors[which],
        None if entries.norms is None else entries.norms[which],
        entries.codes[which],
    )


def planes_of(codes: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return the high and the low planes of (n, d) codes, each (n, ceil(d / 2)) uint8.

    Examples
    --------
    >>> [plane.tobytes().hex() for plane in planes_of(np.array([[0x12, 0x34, 0x56]], "u1"))]
    ['5103', '6204']
    """
    count, width = codes.shape
    half = -(-width // 2)
    first: npt.NDArray[Any] = codes[:, :half]
    second: npt.NDArray[Any] = np.zeros((count, half), dtype=np.uint8)
    second[:, : width - half] = codes[:, half:]
    return first // 16 | second & 0xF0, first & 0x0F | second * 16


def halves_of(
    high: npt.NDArray[np.uint8], low: npt.NDArray[np.uint8] | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return the codes that (n, h) planes hold: those of the first h dimensions and of the others, each (n, h) uint8.

    Without low planes they are the middle of what they may be. The last of an odd width is followed by one of no meaning.

    Examples
    --------
    >>> high, low = planes_of(np.array([[0x12, 0x34, 0x56]], "u1"))
    >>> [half.tobytes().hex() for half in halves_of(high, low)], [half.tobytes().hex() for half in halves_of(high, None)]
    (['1234', '5600'], ['1838', '5808'])
    """
    first, second = high * np.uint8(16), high & np.uint8(0xF0)  # numpy's shifts of bytes aren't vectorised
    if low is None:
        first |= 8
        second |= 8
    else:
        first |= low & 0x0F
        second |= low // 16
    return first, second
