"""What does a typical store look like: keys, lengths of values, and the structures that tell of them?

The model asks the format's own encoders for the bytes of a typical structure; how many there are, and when they are written or
read, it works out by itself.
"""

import secrets
from functools import cache

import numpy as np
import numpy.typing as npt

from zarrvec.format.commit import Commit, encode_commit
from zarrvec.format.manifest import PAGE_ENTRIES, PAGE_RAW_BYTES, Root, encode_page, encode_root
from zarrvec.format.table import CRC_BYTES, encode_table
from zarrvec.layout.delta import Delta
from zarrvec.types import PACK_ID_BYTES, WRITE_ID_BYTES, Entry, Location, PackRef, PageRef

CHUNK = 6144
"""Bytes of a chunk before it is encoded."""
_FRAME = 31
"""About what zstd takes besides, with the zeros behind them: 21 to 44."""
_ROW_BYTES = 24
_WORD = (1 << 64) - 1
_SAMPLE_PAGES = 20_000
_PIECE_PAGES = 244
"""Pages that one commit wrote, one behind the other."""


def key_of(number: int) -> str:
    return f"x/c/{number}/0"


def length_of(number: int) -> int:
    """Return about how many bytes a chunk takes when it is encoded: 5,000 to 5,999, as if drawn."""
    return _random_bytes(number) + _FRAME


def _random_bytes(number: int) -> int:
    """Return 5,000 to 5,999, by splitmix64: what has a pattern, zstd would find."""
    mixed = (number * 0x9E3779B97F4A7C15) & _WORD
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _WORD
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _WORD
    return 5_000 + (mixed >> 33) % 1_000


def value_of(number: int) -> npt.NDArray[np.uint8]:
    """Return the cells of a chunk, of which `length_of` bytes are left by zstd."""
    cells = np.zeros(CHUNK, dtype=np.uint8)
    size = _random_bytes(number)
    cells[:size] = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
    return cells


MEAN_LENGTH = 5_000 + 499.5 + _FRAME


def page_entries(count: int) -> int:
    """Return the entries of a full page of a store of so many chunks."""
    return min(PAGE_ENTRIES, PAGE_RAW_BYTES // (len(key_of(count - 1)) + _ROW_BYTES), count)


@cache
def page_bytes(count: int, per_pack: int) -> int:
    """Return the stored bytes of a full page in the middle of a store."""
    return len(encode_page(_rows(count // 2, page_entries(count), per_pack)))


def page_raw_bytes(count: int, per_pack: int) -> int:
    """Return its bytes before compression."""
    return len(encode_table(_rows(count // 2, page_entries(count), per_pack)))


def _rows(first: int, entries: int, per_pack: int) -> list[tuple[str, Entry]]:
    packs: dict[int, bytes] = {}
    rows = []
    at = 8
    for number in range(first, first + entries):
        if number % per_pack == 0:
            at = 8
        pack = packs.setdefault(number // per_pack, secrets.token_bytes(PACK_ID_BYTES))
        length = length_of(number)
        rows.append((key_of(number), Entry(0, length, pack, at)))
        at += length + CRC_BYTES
    return rows


def typical_root(count: int, per_pack: int, pages: int | None = None) -> Root:
    """Return the root of a store, or one of its first pages alone; packs hold adjacent chunks."""
    entries = page_entries(count)
    there = -(-count // entries) if pages is None else pages
    draw = np.random.default_rng(3)
    values: dict[int, bytes] = {}
    pieces: dict[int, bytes] = {}
    refs = []
    at = 8
    for page in range(there):
        first, last = page * entries, min(count, (page + 1) * entries) - 1
        if page % _PIECE_PAGES == 0:
            at = 8
        used = []
        for pack in range(first // per_pack, last // per_pack + 1):
            held = min(last + 1, (pack + 1) * per_pack) - max(first, pack * per_pack)
            name = values.setdefault(pack, draw.bytes(PACK_ID_BYTES))
            used.append((name, int(held * MEAN_LENGTH + 290 * held**0.5 * draw.normal())))
        length = int(page_bytes(count, per_pack) + 12 * draw.normal())
        place = Location(pieces.setdefault(page // _PIECE_PAGES, draw.bytes(PACK_ID_BYTES)), at, length)
        refs.append(
            PageRef(key_of(first), key_of(last), place, last - first + 1, page // _PIECE_PAGES, tuple(used))
        )
        at += length
    sizes = per_pack * MEAN_LENGTH + 290 * per_pack**0.5 * draw.normal(size=len(values))
    packs = [PackRef(name, int(size)) for name, size in zip(values.values(), sizes.tolist(), strict=True)]
    return Root(refs, [*packs, *(PackRef(name, 0) for name in pieces.values())])


@cache
def root_bytes(count: int, per_pack: int) -> int:
    """Return the stored bytes of a root; of many pages, by those of the first 20,000."""
    pages = -(-count // page_entries(count))
    if pages <= _SAMPLE_PAGES:
        return len(encode_root(typical_root(count, per_pack)))
    return len(encode_root(typical_root(count, per_pack, _SAMPLE_PAGES))) * pages // _SAMPLE_PAGES


def root_raw_bytes(pages: int, packs: int, usages: int, key_bytes: float) -> float:
    """Return the bytes of a root before compression: ``specs/format.md``, section "Root"."""
    keys = 2 * (2 + 2 + key_bytes)
    return pages * (keys + 4 + 8 + 4 + 4 + 8 + 4) + packs * (PACK_ID_BYTES + 8) + usages * (4 + 8)


def commit_bytes(entries: dict[str, Entry], inline_root: int, number: int) -> int:
    """Return the bytes of a commit with a delta; a root that stands in it does not become shorter."""
    used: dict[bytes, int] = {}
    for entry in entries.values():
        used[entry.pack] = used.get(entry.pack, 0) + entry.length
    commit = Commit(
        number=number, write_id=secrets.token_bytes(WRITE_ID_BYTES), parent=secrets.token_bytes(WRITE_ID_BYTES),
        time_us=1_790_000_000_000_000, author="somebody", message="", automatic=True, root=secrets.token_bytes(inline_root),
        root_at=None, root_number=number, delta=encode_table(Delta(entries).sorted_rows()), clears=[],
        packs=[PackRef(*pack) for pack in used.items()], writer="zarrvec 0.1.0",
    )  # fmt: skip
    return len(encode_commit(commit))
