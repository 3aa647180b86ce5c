"""What is known of a layout before anything is written: chunks, what the codec makes of them, packs?

Source: ``specs/planner.md``, section "Layouts".
"""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from zarrvec.layout.packing import PACK_BYTES
from zarrvec.planner.access import Pattern

StoreKind: TypeAlias = Literal["zarrvec", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """What a codec does to bytes: measured on a sample, or taken from a table."""

    name: str
    ratio: float = 1.0
    """Decoded bytes for each stored one."""
    encode_seconds: float = 0.0
    """Of one thread, for each decoded byte."""
    decode_seconds: float = 0.0
    """Of one thread, for each decoded byte."""


RAW: Final = Coding(name="none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """An array as it would be stored."""

    shape: tuple[int, ...]
    itemsize: int
    """Bytes of a cell."""
    chunks: tuple[int, ...]
    coding: Coding = RAW
    pack_bytes: int = PACK_BYTES
    store: StoreKind = "zarrvec"
    """``"zarrvec"``, or ``"plain"`` for one object for each chunk, or for each shard if there are shards."""
    shards: tuple[int, ...] | None = None
    """Cells of a shard; only in plain stores."""
    fill: Pattern | None = None
    """The writes that filled the array; None for a single one."""

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks along each axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    @property
    def chunk_count(self) -> int:
        """Number of chunks."""
        return math.prod(self.grid)

    @property
    def chunk_bytes(self) -> int:
        """Decoded bytes of a chunk; those at the edges are stored whole too."""
        return self.itemsize * math.prod(self.chunks)

    @property
    def value_bytes(self) -> int:
        """Stored bytes of a chunk, on average; exact where nothing is compressed."""
        return max(1, round(self.chunk_bytes / self.coding.ratio))

    @property
    def tile(self) -> tuple[int, ...]:
        """Cells that one of the writes took along each axis which filled the array."""
        return self.shape if self.fill is None else self.fill.lengths

    @property
    def tiles(self) -> tuple[int, ...]:
        """Number of these writes along each axis."""
        return tuple(-(-size // length) for size, length in zip(self.shape, self.tile, strict=True))

    def runs(self, pattern: Pattern, cells: float) -> float:
        """Return in how many pieces numpy copies the cells of a call, or, if they are scattered, picks them.

        Examples
        --------
        >>> from zarrvec.planner.access import Access, resolve
        >>> pattern = resolve(Access("read", (None,)), (10, 96, 3))
        >>> Layout(shape=(10, 96, 3), itemsize=1, chunks=(5, 96, 3)).runs(pattern, 2880)
        2.0
        >>> Layout(shape=(10, 96, 3), itemsize=1, chunks=(5, 96, 1)).runs(pattern, 2880)
        6.0
        """
        run = 1
        for chunk, length in zip(reversed(self.chunks), reversed(pattern.lengths), strict=True):
            run *= min(chunk, length)
            if run > 1 and (pattern.scattered or chunk != length):
                break
        return cells / run

    def with_chunks(self, chunks: tuple[int, ...]) -> "Layout":
        """Return the layout with other chunks."""
        return replace(self, chunks=chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one call of an access makes the reader, the writer and the storage do, on average."""

    gets: float = 0.0
    """Requests that read; of a write, those for what it changes in part."""
    get_bytes: float = 0.0
    puts: float = 0.0
    """Requests that write, commits among them."""
    put_bytes: float = 0.0
    chunks_decoded: float = 0.0
    chunks_encoded: float = 0.0
    wanted_bytes: float = 0.0
    """Decoded bytes of the cells that the call takes."""
    runs: float = 0.0
    """Pieces that wanted cells are copied in, each by one loop of numpy."""
    picked_cells: float = 0.0
    """Cells that are taken one by one, since blocks are scattered."""
    picked_lines: float = 0.0
    """Chunks along the axis of scattered blocks, for each of which zarr works out what is taken of it."""

    def plus(self, other: "Work", *, times: float = 1.0) -> "Work":
        """Return the sum, the other one so many times.

        Examples
        --------
        >>> total = Work(gets=1).plus(Work(gets=2, puts=1), times=0.5)
        >>> total.gets, total.puts
        (2.0, 0.5)
        """
        return Work(
            gets=self.gets + times * other.gets,
            get_bytes=self.get_bytes + times * other.get_bytes,
            puts=self.puts + times * other.puts,
            put_bytes=self.put_bytes + times * other.put_bytes,
            chunks_decoded=self.chunks_decoded + times * other.chunks_decoded,
            chunks_encoded=self.chunks_encoded + times * other.chunks_encoded,
            wanted_bytes=self.wanted_bytes + times * other.wanted_bytes,
            runs=self.runs + times * other.runs,
            picked_cells=self.picked_cells + times * other.picked_cells,
            picked_lines=self.picked_lines + times * other.picked_lines,
        )
