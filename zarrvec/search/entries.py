"""Where in the store are the bytes of some entries of a segment?

The array of entries is uncompressed, so that a range of entries is a range of bytes of each chunk that it touches. On a
zarrvec store chunks lie in packs; elsewhere they are the inner chunks of zarr's shards, found by the index at the end of
each. Plans are pure. Source: ``specs/vector-index.md``, section "Entries".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, Self, TypeAlias

import google_crc32c
import numpy as np
import numpy.typing as npt

from zarrvec.errors import CorruptError
from zarrvec.search.sources import Want

CHUNK_BYTES: Final = 16 << 20
"""A chunk on a zarrvec store is at most this long."""
APART_BYTES: Final = 1 << 20
"""A chunk on a zarrvec store that is sent while the next one is made is at least this long."""
SHARD_BYTES: Final = 64 << 20
"""A shard on other stores is at most about this long."""
INNER_BYTES: Final = 256 << 10
"""A chunk in a shard is about this long."""
_NOTHING: Final = 2**64 - 1
_ZEROS: Final = -1
_ROW_BYTES: Final = 16
_CRC_BYTES: Final = 4

ShardIndex: TypeAlias = npt.NDArray[np.uint64]
"""(chunks, 2) uint64: offset and length of each chunk in the shard; both 2^64 - 1 if it is all zeros and not there."""
Span: TypeAlias = tuple[int, int]
"""First entry, and the one after the last."""


class Cut(Protocol):
    """What a segment says of its array of entries."""

    @property
    def id(self) -> str:
        """Name of its group."""

    @property
    def entries(self) -> int:
        """Number of entries."""

    @property
    def chunk_rows(self) -> int:
        """Entries in a chunk."""

    @property
    def shard_rows(self) -> int | None:
        """Entries in a shard, None without shards."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EntriesReader:
    """Finds the bytes of entries in an array of them.

    Examples
    --------
    >>> reader = EntriesReader(name="s/entries", rows=100, entry_bytes=8, chunk_rows=40)
    >>> spans = [(0, 10), (30, 50)]
    >>> wants = reader.wants(spans)
    >>> [(want.key, want.start, want.stop) for want in wants]
    [('s/entries/c/0/0', 0, 80), ('s/entries/c/0/0', 240, 320), ('s/entries/c/1/0', 0, 80)]
    >>> [len(part) for part in reader.join(spans, [memoryview(bytes(80))] * 3)]
    [80, 160]
    """

    name: str
    """Path of the array below the group of the index."""
    rows: int
    """Entries in it."""
    entry_bytes: int
    """Bytes of an entry."""
    chunk_rows: int
    """Entries in a chunk; the last one is filled up with zeros."""
    shard_rows: int | None = None
    """Entries in a shard, whole chunks of them; None if there are no shards."""
    indexes: dict[str, ShardIndex] = field(default_factory=dict, repr=False)
    """Indexes of shards that are known, by the keys of the shards."""

    @classmethod
    def of(cls, segment: Cut, entry_bytes: int) -> Self:
        """Make the reader of the entries of a segment."""
        return cls(
            name=f"{segment.id}/entries",
            rows=segment.entries,
            entry_bytes=entry_bytes,
            chunk_rows=segment.chunk_rows,
            shard_rows=segment.shard_rows,
        )

    @classmethod
    def planned(cls, name: str, rows: int, entry_bytes: int, *, versioned: bool, apart: bool = False) -> Self:
        """Choose how to cut an array; on a zarrvec store, if asked for, in two where one chunk would do.

        Examples
        --------
        >>> EntriesReader.planned("s/entries", 1_000_000, 200, versioned=True).chunk_rows
        83334
        >>> reader = EntriesReader.planned("s/entries", 1_000_000, 200, versioned=False)
        >>> reader.chunk_rows, reader.shard_rows
        (1310, 334050)
        """
        rows_in_all = max(1, rows)
        if versioned:
            chunk_rows = _evenly(rows_in_all, max(1, CHUNK_BYTES // entry_bytes))
            if apart and chunk_rows == rows_in_all and rows * entry_bytes >= 2 * APART_BYTES:
                chunk_rows = -(-rows_in_all // 2)
            return cls(name=name, rows=rows, entry_bytes=entry_bytes, chunk_rows=chunk_rows)
        chunk_rows = min(rows_in_all, max(1, INNER_BYTES // entry_bytes))
        chunks = _evenly(-(-rows_in_all // chunk_rows), max(1, SHARD_BYTES // (chunk_rows * entry_bytes)))
        shard_rows = chunks * chunk_rows
        return cls(
            name=name, rows=rows, entry_bytes=entry_bytes, chunk_rows=chunk_rows, shard_rows=shard_rows
        )

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk."""
        return self.chunk_rows * self.entry_bytes

    @property
    def chunks_in_shard(self) -> int:
        """Chunks in a shard, 0 without shards."""
        return 0 if self.shard_rows is None else self.shard_rows // self.chunk_rows

    @property
    def shards(self) -> int:
        """Number of shards, 0 without shards."""
        return 0 if self.shard_rows is None else -(-self.rows // self.shard_rows)

    @property
    def first_key(self) -> str:
        """Key of the first chunk, or shard."""
        return self._key(0)

    def index_wants(self) -> list[Want]:
        """Return what must be read and given to `take_indexes` before `wants` can be asked: nothing without shards."""
        size = self.chunks_in_shard * _ROW_BYTES + _CRC_BYTES
        return [
            Want(self._key(shard), -size)
            for shard in range(self.shards)
            if self._key(shard) not in self.indexes
        ]

    def take_indexes(
        self, wants: Sequence[Want], parts: Sequence[memoryview], *, index_path: str = ""
    ) -> None:
        """Remember the indexes of shards, as `index_wants` asked for them.

        Parameters
        ----------
        wants, parts
            What was asked for, and what was read.
        index_path
            Of the group that keys are below, for what an error says.

        Raises
        ------
        CorruptError
            If the checksum of one or a place in it can't be right.
        """
        for want, part in zip(wants, parts, strict=True):
            body, crc = bytes(part[:-_CRC_BYTES]), bytes(part[-_CRC_BYTES:])
            index = np.frombuffer(body, dtype="<u8").reshape(-1, 2)
            missing = (index == _NOTHING).all(axis=1)
            fits = (index[:, 1] == self.chunk_bytes) & (index[:, 0] < 1 << 62)
            if google_crc32c.value(body) != int.from_bytes(crc, "little") or not (missing | fits).all():
                key = f"{index_path}/{want.key}" if index_path else want.key
                raise CorruptError(
                    f"{key}: the index of this shard is damaged. Build the index anew: array.vec.build_index()."
                )
            self.indexes[want.key] = index

    def wants(self, spans: Sequence[Span]) -> list[Want]:
        """Return what is to be read for some spans of entries.

        Raises
        ------
        CorruptError
            If a span lies outside of the array.
        """
        return self._plan(spans)[0]

    def join(self, spans: Sequence[Span], parts: Sequence[memoryview]) -> list[memoryview]:
        """Return the bytes of some spans of entries, put together from what `wants` asked for."""
        return [
            parts[pieces[0][0]]
            if len(pieces) == 1 and pieces[0][0] != _ZEROS
            else memoryview(b"".join(bytes(size) if want == _ZEROS else parts[want] for want, size in pieces))
            for pieces in self._plan(spans)[1]
        ]

    def _plan(self, spans: Sequence[Span]) -> tuple[list[Want], list[list[tuple[int, int]]]]:
        """Return what is to be read, and of which wants each span is made and the bytes of each."""
        wants: list[Want] = []
        made_of: list[list[tuple[int, int]]] = []
        for start, stop in spans:
            if not 0 <= start <= stop <= self.rows:
                raise CorruptError(
                    f"{self.name}: a list of the entries {start} to {stop}, but there are {self.rows}. "
                    "Build the index anew: array.vec.build_index()."
                )
            pieces: list[tuple[int, int]] = []
            at = start
            while at < stop:
                chunk, row = divmod(at, self.chunk_rows)
                end = min(stop, at + self.chunk_rows - row)
                want = self._want(chunk, row * self.entry_bytes, (end - at) * self.entry_bytes)
                if want is None:
                    pieces.append((_ZEROS, (end - at) * self.entry_bytes))
                elif pieces and pieces[-1][0] != _ZEROS and _follows(wants[-1], want):
                    wants[-1] = wants[-1]._replace(stop=want.stop)
                else:
                    pieces.append((len(wants), 0))
                    wants.append(want)
                at = end
            made_of.append(pieces)
        return wants, made_of

    def _key(self, number: int) -> str:
        return f"{self.name}/c/{number}/0"

    def _want(self, chunk: int, start: int, length: int) -> Want | None:
        """Return where a part of a chunk is; None if the chunk is all zeros and not stored."""
        if self.shard_rows is None:
            return Want(self._key(chunk), start, start + length)
        shard, inner = divmod(chunk, self.chunks_in_shard)
        key = self._key(shard)
        offset = int(self.indexes[key][inner, 0])
        return None if offset == _NOTHING else Want(key, offset + start, offset + start + length)


def _evenly(count: int, limit: int) -> int:
    """Return the size of parts of about equal size, none above a limit."""
    return -(-count // -(-count // limit))


def _follows(before: Want, want: Want) -> bool:
    return (before.key, before.stop) == (want.key, want.start)
