"""What will the engine's operations cost on a store of N chunks?

Sources: ``specs/format.md`` for what structures there are, ``specs/commit.md`` for when they are written and read, and the code's
constants. The steps of a writer are played through, with the delta as it fills and is folded; nothing is stored.
"""

import secrets
from collections import OrderedDict
from dataclasses import dataclass

import msgspec
import numpy as np

from benchmarks.scaling.typical import (
    MEAN_LENGTH,
    commit_bytes,
    key_of,
    length_of,
    page_bytes,
    page_entries,
    page_raw_bytes,
    root_bytes,
    root_raw_bytes,
)
from benchmarks.scaling.work import Work
from zarrvec.engine.listing import _PAGES_AT_ONCE
from zarrvec.engine.pruning import EVERY
from zarrvec.engine.reader import CONCURRENCY, PAGE_CACHE_BYTES
from zarrvec.engine.verification import PAGES_AT_ONCE, READS_AT_ONCE, TAIL_BYTES
from zarrvec.format.commit import ROOT_INLINE_BYTES
from zarrvec.format.envelope import MAX_ROOT_BYTES, Kind, wrap
from zarrvec.format.manifest import PAGE_ENTRIES
from zarrvec.format.pack import HEADER, TRAILER, Footer
from zarrvec.format.table import CRC_BYTES, encode_table
from zarrvec.layout.coalesce import READ_BYTES
from zarrvec.layout.fold import DELTA_BYTES, DELTA_LIMIT_BYTES, entry_bytes
from zarrvec.layout.packing import PACK_BYTES
from zarrvec.types import PACK_ID_BYTES, Entry

LISTED_BYTES = 250
"""Of XML that a listing has for each object: measured. On AWS it is rather more."""
LISTED_AT_ONCE = 1_000
PREFIXES = 256
"""That packs are spread over."""
DOCUMENT_BYTES = 700
"""Of metadata documents of a group and an array, which stay in the delta, compressed."""
PAGE_GROWTH_BYTES = 21
"""By which a page grows with a chunk in a pack of its own: a name of 12 random bytes, and two extents where there was one."""
ROOT_GROWTH_BYTES = 17
"""By which a root grows with a pack: its name, its size, and what a page uses of it."""
_ABSENT_BYTES = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A store of one array."""

    chunks: int
    per_pack: int = 3_000
    """Chunks in a pack."""
    singles: int = 0
    """Chunks that were changed since, each by a commit of its own, and so have packs of their own."""

    @property
    def pages(self) -> int:
        return -(-self.chunks // page_entries(self.chunks))

    @property
    def packs(self) -> int:
        return -(-self.chunks // self.per_pack)

    @property
    def page_bytes(self) -> int:
        grown = PAGE_GROWTH_BYTES * self.singles // self.pages
        return page_bytes(self.chunks, self.per_pack) + grown

    @property
    def root_bytes(self) -> int:
        return root_bytes(self.chunks, self.per_pack) + ROOT_GROWTH_BYTES * self.singles

    @property
    def root_is_inline(self) -> bool:
        return self.root_bytes <= ROOT_INLINE_BYTES

    @property
    def root_raw_bytes(self) -> float:
        """Return the root's bytes before compression, of which there must not be more than `MAX_ROOT_BYTES`."""
        usages = self.pages + self.packs + self.singles  # a pack that two pages use counts twice
        return root_raw_bytes(self.pages, self.packs + self.singles, usages, 5.0)

    @property
    def is_readable(self) -> bool:
        return self.root_raw_bytes <= MAX_ROOT_BYTES

    # -- reading --------------------------------------------------------------------------------------------------

    def commit_bytes(self) -> float:
        """Return the bytes of a commit with nothing but metadata documents in its delta."""
        return commit_bytes({}, self.root_bytes if self.root_is_inline else 0, 1) + DOCUMENT_BYTES

    def open_and_read(self, versions: int = 1) -> Work:
        """Open the store in a process that holds nothing, and read a chunk that a page tells of.

        The listing is asked for one name, and brings all that fit into one response.
        """
        outside = not self.root_is_inline
        pieces = -(-self.root_bytes // READ_BYTES) if outside else 0
        size = (
            self.commit_bytes()
            + (self.root_bytes if outside else 0)
            + self.page_bytes
            + MEAN_LENGTH
            + CRC_BYTES
        )
        return Work(
            lists=1,
            gets=3 + pieces,
            rounds=4 + outside,
            read_bytes=size + LISTED_BYTES * min(versions, LISTED_AT_ONCE),
        )

    def read_adjacent(self, count: int) -> Work:
        """Read adjacent chunks of an open store, whose page is in memory."""
        gets = -(-count * MEAN_LENGTH // READ_BYTES) + (count - 1) / self.per_pack
        return Work(gets=gets, rounds=1, read_bytes=count * (MEAN_LENGTH + CRC_BYTES))

    def list_all(self, rewritten: int = 0) -> Work:
        """List all keys, when the root is in memory; pages lie side by side but those that were written again."""
        waves = -(-self.pages // _PAGES_AT_ONCE)
        ends = (self.pages * page_entries(self.chunks) - 1) // 1_000_000  # of what one commit wrote
        gets = min(self.pages, waves + ends + rewritten)
        return Work(gets=gets, rounds=waves, read_bytes=self.pages * self.page_bytes)

    def list_all_scattered(self) -> Work:
        """List all keys where every page was written by another commit."""
        waves = -(-self.pages // min(_PAGES_AT_ONCE, CONCURRENCY))
        return Work(gets=self.pages, rounds=waves, read_bytes=self.pages * self.page_bytes)

    def verify(self, versions: int = 1) -> Work:
        """Read every byte that the newest version reaches; rounds are those of the 8 reads that go on at once."""
        values = self.chunks * (MEAN_LENGTH + CRC_BYTES)
        in_pack = values / self.packs
        waves = -(-self.pages // PAGES_AT_ONCE)
        value_reads = self.packs * -(-in_pack // READ_BYTES) + waves - 1
        prefixes = PREFIXES * (1 - (1 - 1 / PREFIXES) ** self.packs)
        listings = prefixes * -(-self.packs / prefixes // LISTED_AT_ONCE)
        pack_bytes = LISTED_BYTES + HEADER.size + min(TAIL_BYTES, in_pack)
        page_reads = waves * -(-PAGES_AT_ONCE * self.page_bytes // READ_BYTES)
        gets = versions + 1 + 2 * self.packs + page_reads + value_reads + (not self.root_is_inline)
        size = (
            values
            + self.pages * self.page_bytes
            + self.packs * pack_bytes
            + (versions + 1) * self.commit_bytes()
        )
        rounds = 4 + (listings + 2 * self.packs + value_reads) / READS_AT_ONCE + waves
        return Work(
            lists=3 + listings,
            gets=gets,
            rounds=rounds,
            read_bytes=size + self.root_bytes * (not self.root_is_inline),
        )

    # -- writing --------------------------------------------------------------------------------------------------

    def writer(self, seed: int = 5) -> "Writer":
        return Writer(self, seed)


class Writer:
    """A writer that commits again and again, played through."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self.random = np.random.default_rng(seed)
        self.number = 100
        self.folds = 0
        """Pages that were written again."""
        self.rewritten: set[int] = set()
        self.metadata_bytes = self.commit_bytes = 0.0
        self.garbage_bytes = 0.0
        """Of pages and roots that nobody needs any more, of values that were replaced, and of footers, which only recovery reads."""
        self.extra_packs = 0
        """That pages refer to besides those that the store began with."""
        self._delta: dict[int, Entry] = {}
        self._grown: dict[int, int] = {}
        self._cache: OrderedDict[int, None] = OrderedDict()
        self._cached = PAGE_CACHE_BYTES // (
            page_raw_bytes(store.chunks, store.per_pack) + 160 * page_entries(store.chunks)
        )
        self._key_bytes = entry_bytes(key_of(store.chunks - 1), Entry(0))
        self._size: dict[tuple[int, int], int] = {}

    def root_bytes(self) -> int:
        return self.store.root_bytes + ROOT_GROWTH_BYTES * self.extra_packs

    def fill(self, count: int) -> None:
        """Go on in another process, which changes single chunks all over the store, by one commit that is not counted."""
        self._cache.clear()
        for number in self.random.choice(self.store.chunks, size=count, replace=False).tolist():
            self._delta[number] = Entry(self.number, length_of(number), secrets.token_bytes(PACK_ID_BYTES), 8)
        self._fold(count * self._key_bytes)
        self._cache.clear()

    def write(self, first: int, count: int) -> Work:
        """Commit adjacent chunks, each longer than what a page would hold, all together longer than a tiny commit."""
        self.number += 1
        pack, at = secrets.token_bytes(PACK_ID_BYTES), HEADER.size
        for number in range(first, first + count):
            length = length_of(number)
            self._delta[number] = Entry(self.number, length, pack, at)
            at += length + CRC_BYTES
        work = Work(puts=1 + -(-at // PACK_BYTES), rounds=2)
        own = count * self._key_bytes
        pages, missing = self._fold(own)
        inline = self.root_bytes() <= ROOT_INLINE_BYTES
        footer = self._footer(first, count, len(pages))
        written = at + sum(self.store.page_bytes + self._grown[page] for page in pages) + footer
        if pages and not inline:
            written += self.root_bytes()
            self.garbage_bytes += self.root_bytes()
        if missing:
            work += Work(gets=missing, rounds=1, read_bytes=missing * self.store.page_bytes)
        commit = self._commit_bytes(self.root_bytes() if inline else 0)
        self.metadata_bytes += written + commit - (at - HEADER.size)
        self.commit_bytes += commit
        self.garbage_bytes += len(pages) * self.store.page_bytes + at + footer
        if self.number % EVERY == 0:
            work += Work(lists=1)
        return work + Work(written_bytes=written + commit)

    def _fold(self, own: int) -> tuple[list[int], int]:
        """Fold what is due; return the pages that are written again, and how many of them are not in memory."""
        size = len(self._delta) * self._key_bytes
        if size <= DELTA_BYTES:
            return [], 0
        groups: dict[int, list[int]] = {}
        entries = page_entries(self.store.chunks)
        for number in self._delta:
            groups.setdefault(number // entries, []).append(number)
        pages = sorted(groups, key=lambda page: -len(groups[page]))
        if own <= DELTA_BYTES and size <= DELTA_LIMIT_BYTES:
            pages = pages[:1]
        missing = 0
        for page in pages:
            named = {self._delta[number].pack for number in groups[page]}
            for number in groups[page]:
                del self._delta[number]
            self.extra_packs += len(named)
            self._grown[page] = self._grown.get(page, 0) + PAGE_GROWTH_BYTES * len(named)
            missing += page not in self._cache
            self._cache[page] = None
            self._cache.move_to_end(page)
            while len(self._cache) > self._cached:
                self._cache.popitem(last=False)
        self.folds += len(pages)
        self.rewritten.update(pages)
        return pages, missing

    def _commit_bytes(self, root: int) -> float:
        """Return the bytes of the commit; those of the delta by its length, since only that matters."""
        packs = len({entry.pack for entry in self._delta.values()})
        kind = (len(self._delta) // 8, packs // 8)
        if kind not in self._size:
            entries = {key_of(number): entry for number, entry in self._delta.items()}
            self._size[kind] = commit_bytes(entries, 0, self.number)
        return self._size[kind] + root + DOCUMENT_BYTES

    def _footer(self, first: int, count: int, pages: int) -> int:
        pack = bytes(PACK_ID_BYTES)
        rows = [
            (key_of(number), Entry(0, length_of(number), pack, 8 + 5_500 * at))
            for at, number in enumerate(range(first, first + count))
        ]
        footer = Footer(
            pack=secrets.token_bytes(PACK_ID_BYTES), base=self.number, time_us=1 << 50, values=encode_table(rows),
            changes=encode_table([]), clears=[], pages=[(1 << 20, 8_000)] * pages, root=None,
        )  # fmt: skip
        return len(wrap(Kind.FOOTER, msgspec.msgpack.encode(footer))) + TRAILER.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Means of some commits."""

    work: Work
    metadata_bytes: float
    """Besides the values."""
    commit_bytes: float
    """Of these, the object of the commit."""
    folds: float
    """Pages that a commit writes again."""
    garbage_bytes: float
    """What it leaves behind, values that it replaced included."""


def bursts(writer: Writer, commits: int, burst: int) -> Written:
    """Write adjacent chunks somewhere, again and again."""
    chunks = writer.store.chunks
    starts = writer.random.integers(max(1, chunks - burst), size=commits).tolist()
    return _played(writer, [(start, burst) for start in starts])


def singles(writer: Writer, commits: int) -> Written:
    """Write one chunk somewhere, again and again."""
    numbers = writer.random.integers(writer.store.chunks, size=commits).tolist()
    return _played(writer, [(number, 1) for number in numbers])


def _played(writer: Writer, places: list[tuple[int, int]]) -> Written:
    total = Work()
    before = (writer.metadata_bytes, writer.folds, writer.garbage_bytes, writer.commit_bytes)
    for place in places:
        total += writer.write(*place)
    after = (writer.metadata_bytes, writer.folds, writer.garbage_bytes, writer.commit_bytes)
    metadata, folds, garbage, commit = (
        (new - old) / len(places) for new, old in zip(after, before, strict=True)
    )
    return Written(
        work=total * (1 / len(places)),
        metadata_bytes=metadata,
        commit_bytes=commit,
        folds=folds,
        garbage_bytes=garbage,
    )


def pruning(commit_size: float) -> Work:
    """Return what dropping old automatic commits adds to each commit in the long run: it is read before it is dropped."""
    # the listing has the newest 64, and up to 256 behind them
    return Work(lists=1 / EVERY, gets=1, puts=1 / EVERY, read_bytes=commit_size + 5 * LISTED_BYTES)


def most_packs() -> int:
    """Return with how many packs of one chunk each the root of a store can't be read any more, if pages are full."""
    each = PACK_ID_BYTES + 8 + 12 + (36 + 18) / PAGE_ENTRIES
    return int(MAX_ROOT_BYTES / each)
