"""How are sorted (key, entry) pairs written as columns, at a few bytes each, and read back?

One layout serves manifest pages, the delta of a commit and the footer of a pack.
Source: ``specs/format.md``, section "Table".
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from zarrvec.errors import CorruptError
from zarrvec.format.keys import MAX_KEY_BYTES, first_bad_key, sort_key
from zarrvec.types import PACK_ID_BYTES, Entry

HEADER: Final = struct.Struct("<IIIIII")
INLINE: Final = 0xFFFFFFFF
DELETED: Final = 0xFFFFFFFE
CRC_BYTES: Final = 4
"""Every value in a pack is followed by its CRC32C."""

VALUE_LIMIT: Final = 1 << 40
"""A value is shorter than 1 TiB."""
MAX_KEYS_BYTES: Final = 256 << 20
"""All keys of a table, written out, take no more: prefix compression lets a short table claim many long ones."""

_OFFSET_LIMIT: Final = 1 << 62

Uint64s: TypeAlias = npt.NDArray[np.uint64]


def encode_table(rows: Sequence[tuple[str, Entry]]) -> bytes:
    """Write rows, which must be in key order and without duplicates.

    Examples
    --------
    >>> rows = [("a/c/0", Entry.inline(b"x", generation=7))]
    >>> list(Table(encode_table(rows), name="here")) == rows
    True
    """
    packs: dict[bytes, int] = {}
    extents: list[tuple[int, int, int]] = []
    runs: list[tuple[int, int]] = []
    inline: list[bytes] = []
    inline_bytes = 0
    expected = (-1, 0)
    generation = -1
    for row, (_, entry) in enumerate(rows):
        if entry.data is not None:
            place = (INLINE, inline_bytes)
            inline.append(entry.data)
            inline_bytes += entry.length
            after = (INLINE, inline_bytes)
        elif entry.pack:
            number = packs.setdefault(entry.pack, len(packs))
            place = (number, entry.offset)
            after = (number, entry.offset + entry.length + CRC_BYTES)
        else:
            place = after = (DELETED, 0)
        if place != expected:
            extents.append((row, *place))
        expected = after
        if entry.generation != generation:
            generation = entry.generation
            runs.append((row, generation))
    shared, suffix_lengths, suffixes = _split_keys([key for key, _ in rows])
    return b"".join(
        (
            HEADER.pack(len(rows), len(packs), len(extents), len(runs), len(suffixes), inline_bytes),
            *packs,
            planes(shared, "<u2"),
            planes(suffix_lengths, "<u2"),
            suffixes,
            planes([extent[0] for extent in extents], "<u4"),
            planes([extent[1] for extent in extents], "<u4"),
            planes([extent[2] for extent in extents], "<u8"),
            planes([entry.length for _, entry in rows], "<u8"),
            planes([run[0] for run in runs], "<u4"),
            planes([run[1] for run in runs], "<u8"),
            *inline,
        )
    )


class Table:
    """A table that was read: columns, with keys and entries made on demand.

    Parameters
    ----------
    payload
        What `encode_table` wrote.
    name
        Object and place, for error messages.
    base_generation
        What a generation of 0 stands for.

    Raises
    ------
    CorruptError
        If a count, an offset or a key does not hold.
    """

    def __init__(self, payload: bytes, *, name: str, base_generation: int = 0) -> None:
        self._name = name
        self._payload = payload
        self._base_generation = base_generation
        if len(payload) < HEADER.size:
            raise self._broken(f"{len(payload)} bytes, a table has at least {HEADER.size}")
        count, pack_count, extent_count, run_count, suffix_bytes, inline_bytes = HEADER.unpack_from(payload)
        sizes = (
            pack_count * PACK_ID_BYTES,
            count * 4,
            suffix_bytes,
            extent_count * 16,
            count * 8,
            run_count * 12,
            inline_bytes,
        )
        if HEADER.size + sum(sizes) != len(payload):
            raise self._broken(f"{len(payload)} bytes, its header says {HEADER.size + sum(sizes)}")
        at = HEADER.size
        self.packs = [
            payload[at + i * PACK_ID_BYTES : at + (i + 1) * PACK_ID_BYTES] for i in range(pack_count)
        ]
        at += sizes[0]
        self._shared = self._column(at, count, "<u2")
        self._suffix_lengths = self._column(at + 2 * count, count, "<u2")
        at += sizes[1]
        self._suffixes = payload[at : at + suffix_bytes]
        at += suffix_bytes
        extent_rows = self._column(at, extent_count, "<u4")
        extent_packs = self._column(at + 4 * extent_count, extent_count, "<u4")
        extent_offsets = self._column(at + 8 * extent_count, extent_count, "<u8")
        at += sizes[3]
        self.lengths: Uint64s = self._column(at, count, "<u8")
        at += sizes[4]
        run_rows = self._column(at, run_count, "<u4")
        run_generations = self._column(at + 4 * run_count, run_count, "<u8")
        self._inline = payload[at + sizes[5] :]
        if int(self._suffix_lengths.sum(dtype=np.uint64)) != suffix_bytes:
            raise self._broken("the key suffixes do not add up")
        if int(self._shared.sum(dtype=np.uint64)) + suffix_bytes > MAX_KEYS_BYTES:
            raise self._broken(f"its keys take more than {MAX_KEYS_BYTES} bytes")
        if count and bool((self.lengths >= VALUE_LIMIT).any()):
            raise self._broken("a value is longer than 2^40 bytes")
        if float(self.lengths.sum(dtype=np.float64)) >= _OFFSET_LIMIT:
            raise self._broken("the values add up to more than 2^62 bytes")
        self.pack_numbers = self._spread(extent_rows, extent_packs, count, "extents")
        self.generations: Uint64s = self._spread(run_rows, run_generations, count, "generations").astype(
            np.uint64
        )
        if base_generation:
            self.generations[self.generations == 0] = base_generation
        self.offsets = self._offsets(extent_rows, extent_offsets, count)
        self._check_places()

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return zip(self.keys, self.entries(), strict=True)

    def _broken(self, what: str) -> CorruptError:
        return CorruptError(f"{self._name}: the table is damaged: {what}.")

    def _column(self, at: int, count: int, dtype: str) -> npt.NDArray[Any]:
        width = np.dtype(dtype).itemsize
        raw = np.frombuffer(self._payload, "u1", count * width, at)
        return np.ascontiguousarray(raw.reshape(width, count).T).view(dtype).reshape(count)

    def _spread(self, rows: Uint64s, values: Uint64s, count: int, what: str) -> npt.NDArray[Any]:
        if bool(count) != bool(len(rows)) or (
            count and (rows[0] != 0 or rows[-1] >= count or bool((np.diff(rows.astype(np.int64)) <= 0).any()))
        ):
            raise self._broken(f"the {what} do not start at row 0 and grow below {count}")
        return np.repeat(values, np.diff(np.append(rows.astype(np.int64), count)))

    def _offsets(self, extent_rows: Uint64s, extent_offsets: Uint64s, count: int) -> Uint64s:
        """Add up lengths (and checksums, inside packs) from the start of each extent."""
        if not count:
            return np.zeros(0, np.uint64)
        if bool((extent_offsets >= _OFFSET_LIMIT).any()):
            raise self._broken("an offset is beyond 2^62 bytes")
        steps = self.lengths + np.where(self.pack_numbers < DELETED, CRC_BYTES, 0).astype(np.uint64)
        before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(steps, dtype=np.uint64)[:-1]])
        starts = extent_rows.astype(np.int64)
        shift = np.repeat(extent_offsets - before[starts], np.diff(np.append(starts, count)))
        return np.asarray(before + shift, np.uint64)

    def _check_places(self) -> None:
        inline = self.pack_numbers == INLINE
        in_pack = self.pack_numbers < DELETED
        if bool((self.pack_numbers[in_pack] >= len(self.packs)).any()):
            raise self._broken("an entry names a pack that is not in its list")
        ends = np.cumsum(self.lengths[inline], dtype=np.uint64)
        total = int(ends[-1]) if len(ends) else 0
        if total != len(self._inline) or bool((self.offsets[inline] != ends - self.lengths[inline]).any()):
            raise self._broken("the inline values do not stand one after another")
        if bool(self.lengths[self.pack_numbers == DELETED].any()):
            raise self._broken("a deleted key has a length")

    @cached_property
    def keys(self) -> list[str]:
        """All keys, in order."""
        keys: list[str] = []
        previous = b""
        at = 0
        suffixes = self._suffixes
        for shared, length in zip(self._shared.tolist(), self._suffix_lengths.tolist(), strict=True):
            if shared > len(previous) or shared + length > MAX_KEY_BYTES:
                raise self._broken(f"a key shares {shared} of {len(previous)} bytes and adds {length}")
            previous = previous[:shared] + suffixes[at : at + length]
            at += length
            try:
                keys.append(previous.decode())
            except UnicodeDecodeError as error:
                raise self._broken(f"a key is not UTF-8 ({error})") from error
        bad = first_bad_key(keys)
        if bad is not None:
            raise self._broken(f"{bad[:80]!r} can't be a key")
        return keys

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of each key."""
        rows = {key: row for row, key in enumerate(self.keys)}
        if len(rows) != len(self):
            raise self._broken("a key stands twice")
        return rows

    def check_order(self) -> None:
        """Raise `CorruptError` if the keys are not in key order."""
        order = [sort_key(key) for key in self.keys]
        if any(a >= b for a, b in pairwise(order)):
            raise self._broken("the keys are not in order")

    def find(self, key: str) -> Entry | None:
        """Return the entry of a key, or None."""
        row = self.rows.get(key)
        return None if row is None else self.entry(row)

    def entry(self, row: int) -> Entry:
        """Return the entry in a row."""
        pack, offset, length = int(self.pack_numbers[row]), int(self.offsets[row]), int(self.lengths[row])
        return self._make(pack, offset, length, int(self.generations[row]))

    def entries(self) -> Iterable[Entry]:
        """Return all entries, in order."""
        return map(
            self._make,
            self.pack_numbers.tolist(),
            self.offsets.tolist(),
            self.lengths.tolist(),
            self.generations.tolist(),
        )

    def _make(self, pack: int, offset: int, length: int, generation: int) -> Entry:
        if pack == INLINE:
            return Entry(generation, length, data=self._inline[offset : offset + length])
        if pack == DELETED:
            return Entry(generation)
        return Entry(generation, length, self.packs[pack], offset)

    @property
    def nbytes(self) -> int:
        """Memory that the table takes, roughly: columns plus keys as Python strings."""
        return len(self._payload) + len(self) * 160

    def usage(self) -> tuple[tuple[bytes, int], ...]:
        """Bytes of values that the table refers to in each pack."""
        in_pack = self.pack_numbers < DELETED
        numbers = self.pack_numbers[in_pack].astype(np.int64)
        totals = np.bincount(numbers, weights=self.lengths[in_pack], minlength=len(self.packs))
        return tuple((pack, int(total)) for pack, total in zip(self.packs, totals.tolist(), strict=True))


def planes(values: Sequence[int] | npt.NDArray[Any], dtype: str) -> bytes:
    """Write numbers as byte planes: all lowest bytes, then all second ones, as a shuffle filter does."""
    column = np.asarray(values, dtype)
    return column.view("u1").reshape(len(column), column.dtype.itemsize).T.tobytes()


def unplanes(data: bytes, dtype: str) -> npt.NDArray[Any]:
    """Read what `planes` wrote."""
    width = np.dtype(dtype).itemsize
    raw = np.frombuffer(data, "u1").reshape(width, len(data) // width)
    return np.ascontiguousarray(raw.T).view(dtype).reshape(-1)


def _split_keys(keys: list[str]) -> tuple[list[int], list[int], bytes]:
    """Write each key as the length it shares with the one before and the bytes that differ."""
    shared: list[int] = []
    lengths: list[int] = []
    suffixes: list[bytes] = []
    previous = b""
    for key in keys:
        raw = key.encode()
        common = _common(previous, raw)
        shared.append(common)
        lengths.append(len(raw) - common)
        suffixes.append(raw[common:])
        previous = raw
    return shared, lengths, b"".join(suffixes)


def _common(left: bytes, right: bytes) -> int:
    """Return how many bytes two keys share from their start."""
    size = min(len(left), len(right))
    differs = int.from_bytes(left[:size], "big") ^ int.from_bytes(right[:size], "big")
    return size - (differs.bit_length() + 7) // 8


def encode_keys(keys: list[str]) -> bytes:
    """Write keys, prefix-compressed: count, shared lengths, suffix lengths, suffixes."""
    shared, lengths, suffixes = _split_keys(keys)
    return struct.pack("<I", len(keys)) + planes(shared, "<u2") + planes(lengths, "<u2") + suffixes


def decode_keys(data: bytes, *, name: str) -> list[str]:
    """Read what `encode_keys` wrote.

    Raises
    ------
    CorruptError
        If the lengths do not add up, or a key is not UTF-8 or can't be one.
    """
    if len(data) < 4 or len(data) < 4 + 4 * (count := int.from_bytes(data[:4], "little")):
        raise CorruptError(f"{name}: the keys are cut short at {len(data)} bytes.")
    shared = unplanes(data[4 : 4 + 2 * count], "<u2").tolist()
    lengths = unplanes(data[4 + 2 * count : 4 + 4 * count], "<u2").tolist()
    at = 4 + 4 * count
    if sum(shared) + sum(lengths) > MAX_KEYS_BYTES:
        raise CorruptError(f"{name}: the keys take more than {MAX_KEYS_BYTES} bytes.")
    keys: list[str] = []
    previous = b""
    for common, length in zip(shared, lengths, strict=True):
        if common > len(previous) or at + length > len(data) or common + length > MAX_KEY_BYTES:
            raise CorruptError(f"{name}: a key shares {common} of {len(previous)} bytes and adds {length}.")
        previous = previous[:common] + data[at : at + length]
        at += length
        try:
            keys.append(previous.decode())
        except UnicodeDecodeError as error:
            raise CorruptError(f"{name}: a key is not UTF-8 ({error}).") from error
    if at != len(data):
        raise CorruptError(f"{name}: {len(data) - at} bytes follow the last key.")
    bad = first_bad_key(keys)
    if bad is not None:
        raise CorruptError(f"{name}: {bad[:80]!r} can't be a key.")
    return keys
