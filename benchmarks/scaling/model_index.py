"""What will searches, appends and builds cost with an index of n vectors of d numbers?

Sources: ``specs/vector-index.md`` for what is stored and in how many waves it is read, and the code's constants. How many lists a
search probes is taken from the calibration of an index that was built; that and where these lists lie is all that depends on the
vectors themselves.
"""

import math
from dataclasses import dataclass

from benchmarks.scaling.vectors import APPENDED, CHUNK_BYTES
from benchmarks.scaling.work import Work
from zarrvec.engine.reader import CONCURRENCY
from zarrvec.layout.coalesce import READ_BYTES
from zarrvec.layout.fold import DELTA_BYTES, INDEX_BYTES, INLINE_BYTES
from zarrvec.layout.packing import PACK_BYTES
from zarrvec.search.build import BLOCK_BYTES, BUILD_MEMORY_BYTES, LEAST_SAMPLE, LIST_ROWS, SAMPLE_ROWS
from zarrvec.search.cache import DEFAULT_CACHE_BYTES
from zarrvec.search.clustering import SECOND_SHARE
from zarrvec.search.entries import CHUNK_BYTES as CHUNKS_OF_ENTRIES
from zarrvec.search.extending import PENDING_BYTES
from zarrvec.search.groups import ALWAYS, GROUPS, are_grouped
from zarrvec.search.index import WHOLE_BYTES
from zarrvec.search.list_table import SHARED_HEAD
from zarrvec.search.records import LIST_HEAD, Layout
from zarrvec.search.sources import GAP_BYTES

RUNS = 0.55
"""Ranges that are read for each list, since near lists lie side by side: measured."""
GAP_LISTS = 1.3
"""Lists that are read over with each one that needs no range of its own, as far as gaps allow: measured."""
RUNS_OF_GROUPS = 0.37
"""Ranges of rows of the table of lists that are read for each group: measured."""
SEEN = 6.0
"""Lists that a search looks at for each one that it probes, if they are in groups: a build chooses it, of 1 to 64; measured."""
PACKED_HEAD_BYTES, PACKED_CODE_BYTES = 20, 0.4
"""What a list takes in a compressed table: what is known of it, and each number of its centroid; measured."""
KEY_BYTES = 46 + 24
"""By which a chunk of the index counts in a delta: its key, with the name of the segment, and the rest."""
TABLES = 3
"""Keys of an index that are not of entries: of its lists, its coverage, its origin."""
_UNIT_BYTES = 11 + 24
"""The same of a chunk of the array."""
_PAGE_BYTES = 1_500
_HEAD_BYTES = 3_000
_PAGE_BYTES_A_UNIT = 1.0
"""Of a manifest page for each chunk of the array: chunks of one length in packs of 16, compressed."""
_TEMPORARY_BYTES = 8
"""An entry, while entries are sorted by lists."""
_BLOCKS = 4
"""Blocks of rows that are held at once: two that come, one that is placed, its residuals."""
_LIBRARIES_BYTES = 60 << 20
"""Of faiss and of threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index by cosine, on a zarrvec store, of an array of float32 in chunks of 1 MiB."""

    rows: int
    width: int
    nlist: int | None = None
    """Lists, if it was told."""
    memory_bytes: int = BUILD_MEMORY_BYTES
    second_share: float = SECOND_SHARE
    written_rows: int = 100_000
    """Rows that one commit wrote into the array, so that its packs hold no more."""

    @property
    def row_bytes(self) -> int:
        return 4 * self.width

    @property
    def layout(self) -> Layout:
        return Layout(width=self.width, id_bytes=4 if self.rows < 1 << 31 else 8, has_norms=False)

    @property
    def wanted_lists(self) -> int:
        return self.nlist or max(1, round(self.rows / LIST_ROWS))

    @property
    def sample_rows(self) -> int:
        """Return how many rows centroids are trained on: no more than half of the memory holds."""
        budget = self.memory_bytes // 2 // self.row_bytes
        fits = self.rows * self.row_bytes <= self.memory_bytes // 2
        return min(
            self.rows if fits else budget, self.rows, max(SAMPLE_ROWS * self.wanted_lists, LEAST_SAMPLE)
        )

    @property
    def lists(self) -> int:
        """Return the lists there will be: each needs a row of the sample."""
        return min(self.wanted_lists, self.sample_rows)

    @property
    def rows_in_list(self) -> float:
        return self.rows / self.lists

    @property
    def entries(self) -> int:
        return round(self.rows * (1 + self.second_share))

    @property
    def entries_bytes(self) -> int:
        return self.entries * self.layout.entry_bytes

    @property
    def list_bytes(self) -> float:
        return self.entries_bytes / self.lists

    @property
    def table_bytes(self) -> int:
        """Return what the table of lists takes in memory."""
        return self.lists * (LIST_HEAD.itemsize + self.width)

    @property
    def stored_table_bytes(self) -> int:
        """Return what it takes in the store: in groups as much, else it is compressed."""
        if self.groups:
            return self.table_bytes
        return round(self.lists * (PACKED_HEAD_BYTES + PACKED_CODE_BYTES * self.width))

    @property
    def groups(self) -> int:
        """Return the groups of lists; 0 if the table of lists is read whole."""
        return round(GROUPS * math.sqrt(self.lists)) if are_grouped(self.lists, self.width) else 0

    @property
    def root_bytes(self) -> int:
        """Return what every process reads of lists: their table, or that of their groups."""
        return self.groups * (LIST_HEAD.itemsize + self.width) or self.stored_table_bytes

    @property
    def units(self) -> int:
        return -(-self.rows * self.row_bytes // CHUNK_BYTES)

    @property
    def coverage_bytes(self) -> int:
        return 8 * self.units

    @property
    def is_read_whole(self) -> bool:
        return self.entries_bytes <= WHOLE_BYTES and not self.groups

    @property
    def chunks(self) -> int:
        """Return the chunks of the index, by which it stands in the manifest."""
        tables = -(-self.table_bytes // CHUNKS_OF_ENTRIES) + 1 if self.groups else 1
        return -(-self.entries_bytes // CHUNKS_OF_ENTRIES) + tables + 1

    @property
    def is_in_pages(self) -> bool:
        """Return whether the keys of its entries are so many that they don't stay in the commit."""
        return self.chunks * KEY_BYTES > INDEX_BYTES

    @property
    def resident_bytes(self) -> int:
        """Return the memory of an open index without lists: 28 bytes a list besides the centroids or groups, a bit or so of rows."""
        centroids = (self.groups or self.lists) * (LIST_HEAD.itemsize + self.width)
        return self.lists * 28 + 5 * centroids + self.coverage_bytes

    # -- searching ------------------------------------------------------------------------------------------------

    def search_warm(self, nprobe: float, seen: float = SEEN) -> Work:
        """Read the lists of one query, when the root is in memory; of groups that nobody has looked at the rows before."""
        return self._rows_of_groups(nprobe, seen) + self._lists(nprobe)

    def _rows_of_groups(self, nprobe: float, seen: float) -> Work:
        if not self.groups:
            return Work()
        groups = max(1.0, min(self.lists, seen * (nprobe + ALWAYS)) * self.groups / self.lists)
        size = self.table_bytes / self.groups
        reads = max(1.0, RUNS_OF_GROUPS * groups)
        gap = min(GAP_LISTS * size, GAP_BYTES / 2)
        return Work(gets=reads, rounds=1, read_bytes=groups * size + (groups - reads) * gap)

    def _lists(self, nprobe: float) -> Work:
        nprobe = min(nprobe, self.lists)
        gets = max(1.0, RUNS * nprobe)
        gap = min(GAP_LISTS * self.list_bytes, GAP_BYTES / 2)
        size = nprobe * self.list_bytes + max(0.0, nprobe - gets) * gap
        return Work(gets=gets, rounds=max(1.0, gets / CONCURRENCY), read_bytes=size)

    def search_cold(self, nprobe: float, seen: float = SEEN, *, folded: bool = False) -> Work:
        """Search when the array is open and nothing of the index is in memory.

        Pages of the manifest that tell of the array's chunks, by now or as soon as others have folded them, are read for
        their generations, beside the root of the index; with those that tell of its entries.
        """
        work = Work(gets=_reads(self.root_bytes), rounds=1, read_bytes=self.root_bytes)
        if self.coverage_bytes > INLINE_BYTES:
            work += Work(gets=_reads(self.coverage_bytes) - 1, read_bytes=self.coverage_bytes)
        if folded or self.is_in_pages or self.units * _UNIT_BYTES > DELTA_BYTES:
            size = _PAGE_BYTES + self.units * _PAGE_BYTES_A_UNIT
            work += Work(gets=_reads(size), read_bytes=size)
        if self.is_read_whole:
            return work + Work(gets=_reads(self.entries_bytes) - 1, read_bytes=self.entries_bytes)
        return work + self.search_warm(nprobe, seen)

    # -- changing -------------------------------------------------------------------------------------------------

    def append(self, count: int = APPENDED) -> Work:
        """Append rows when the index is open; none wait and no segments are merged."""
        new = count * self.row_bytes
        chunk_rows = CHUNK_BYTES // self.row_bytes
        begun = self.rows % chunk_rows
        # the chunk in which the array ends is read and written again; the last one is filled up
        written = -(-(begun + count) // chunk_rows) * chunk_rows * self.row_bytes
        read = CHUNK_BYTES if begun else 0
        work = Work(gets=1 + bool(begun), rounds=1 + bool(begun), read_bytes=read)
        if new >= PENDING_BYTES:
            lists = min(self.lists, count * (1 + self.second_share) * 0.75)
            written += (
                count * (1 + self.second_share) * self.layout.entry_bytes + lists * SHARED_HEAD.itemsize
            )
            written += self.coverage_bytes + _HEAD_BYTES
            if self.groups:  # all centroids are needed
                work += Work(gets=_reads(self.table_bytes), rounds=1, read_bytes=self.table_bytes)
        return work + Work(puts=1 + -(-written // PACK_BYTES), rounds=2, written_bytes=written + _HEAD_BYTES)

    def build(self) -> Work:
        """Build it: the array is read twice, or once if half of the memory holds it."""
        size = self.rows * self.row_bytes
        passes = 1 if size <= self.memory_bytes // 2 else 2
        block = min(BLOCK_BYTES, self.memory_bytes // 8)
        piece = min(self.written_rows, self.rows) * self.row_bytes
        full, rest = divmod(piece, PACK_BYTES)
        reads = -(-self.rows // self.written_rows) * (
            full * -(-PACK_BYTES // READ_BYTES) + -(-rest // READ_BYTES)
        )
        written = self.entries_bytes + self.stored_table_bytes + self.coverage_bytes + _HEAD_BYTES
        puts = 1 + -(-written // PACK_BYTES)
        rounds = passes * max(1, size / block) + puts / 2
        # besides, whether a newer version is there is asked once
        return Work(
            gets=1 + passes * reads, puts=puts, rounds=rounds, read_bytes=passes * size, written_bytes=written
        )

    @property
    def build_memory_bytes(self) -> float:
        """Return about the most memory that a build in one process takes."""
        size = self.rows * self.row_bytes
        sample = self.sample_rows * self.row_bytes
        held = size if size <= self.memory_bytes // 2 else 0
        # parts, and all of them together; of rows that are held the sample besides
        rows = 2 * held + min(size, sample) if held else 2 * sample
        blocks = _BLOCKS * min(BLOCK_BYTES, self.memory_bytes // 8, size)
        numbers = self.rows * 16 + self.entries * (4 + 8 + _TEMPORARY_BYTES)
        return (
            _LIBRARIES_BYTES + max(rows + blocks, held + blocks + numbers) + 3 * 4 * self.lists * self.width
        )

    @property
    def temporary_bytes(self) -> int:
        """Return the bytes of the file in which entries wait."""
        return self.entries * (self.layout.id_bytes + 12 + self.width)

    @property
    def is_kept_whole(self) -> bool:
        """Return whether all centroids fit into the cache of roots, or an append reads them each time."""
        return self.lists * (28 + 5 * self.width) <= DEFAULT_CACHE_BYTES


def _reads(size: float) -> int:
    return max(1, math.ceil(size / READ_BYTES))
