"""Does every parser, whatever bytes it is given, answer or raise a typed error, quickly and within bounded memory?"""

import contextlib
import struct
import time
import tracemalloc
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import zstd

from zarrvec.engine.version import open_version
from zarrvec.errors import CorruptError, FormatVersionError, StoredBytesError
from zarrvec.format.commit import Commit, commit_number, decode_commit, encode_commit
from zarrvec.format.envelope import HEADER, MAX_RAW_BYTES, Kind, crc32c, unwrap, wrap
from zarrvec.format.keys import sort_key
from zarrvec.format.manifest import Root, decode_page, decode_root, encode_page, encode_root
from zarrvec.format.pack import (
    END_MAGIC,
    TRAILER,
    Footer,
    check_header,
    check_value,
    decode_footer,
    encode_pack,
    footer_length,
)
from zarrvec.format.table import Table, decode_keys, encode_keys, encode_table, planes
from zarrvec.types import Clear, Entry, Location, PackRef, PageRef

pytestmark = pytest.mark.once

PACK = b"p" * 12
ROWS = sorted(
    {
        "zarr.json": Entry.inline(b"{}", generation=1),
        "a/zarr.json": Entry.inline(b'{"a": 1}', generation=2),
        "a/c/0": Entry(2, 10, PACK, 8),
        "a/c/1": Entry(2, 10, PACK, 22),
        "a/c/10": Entry(3, 5, b"q" * 12, 8),
        "b/c/é": Entry(3),
    }.items(),
    key=lambda row: sort_key(row[0]),
)
TABLE = encode_table(ROWS)
PAGE = encode_page(ROWS)
ROOT = encode_root(
    Root(
        [PageRef("a/c/0", "a/c/10", Location(PACK, 50, 99), 3, 0, ((PACK, 20), (b"q" * 12, 5)))],
        [PackRef(PACK, 20), PackRef(b"q" * 12, 5)],
    )
)
COMMIT = encode_commit(
    Commit(
        number=3, write_id=b"w" * 16, parent=b"v" * 16, time_us=1_700_000_000_000_000, author="me", message="why",
        automatic=False, root=ROOT, root_at=None, root_number=2, delta=TABLE, clears=[Clear("x", 2)],
        packs=[PackRef(PACK, 20)], writer="test",
    )
)  # fmt: skip
FOOTER = wrap(
    Kind.FOOTER,
    msgspec.msgpack.encode(
        Footer(
            pack=PACK, base=2, time_us=5, values=encode_table(ROWS[2:3]), changes=TABLE, clears=[Clear("x", 2)],
            pages=[(60, 90)], root=(150, 40),
        )
    ),
)  # fmt: skip


def read_table(data: bytes) -> None:
    table = Table(data, name="x", base_generation=4)
    for _, entry in table:
        assert entry.data is None or len(entry.data) == entry.length
    table.check_order()
    table.find("a/c/0")
    table.usage()


def read_page(data: bytes) -> None:
    table = decode_page(data, name="x", number=4)
    list(table)
    table.check_order()


def read_root(data: bytes) -> None:
    root = decode_root(data, name="x", number=4)
    root.page_of("a/c/1")
    root.pages_below("a")
    root.usage()


def read_commit(data: bytes) -> None:
    open_version(decode_commit(data, name="x"))


def read_footer(data: bytes) -> None:
    footer = decode_footer(data, name="x")
    list(Table(footer.values, name="x"))
    list(Table(footer.changes, name="x"))


def read_value(data: bytes) -> None:
    check_value(data[:-4], data[-4:], name="x")


PARSERS: dict[str, tuple[Callable[[bytes], object], bytes, Kind | None]] = {
    "page": (read_page, PAGE, Kind.PAGE),
    "root": (read_root, ROOT, Kind.ROOT),
    "commit": (read_commit, COMMIT, Kind.COMMIT),
    "footer": (read_footer, FOOTER, Kind.FOOTER),
    "table": (read_table, TABLE, None),
    "keys": (lambda data: decode_keys(data, name="x"), encode_keys([key for key, _ in ROWS]), None),
    "trailer": (lambda data: footer_length(data, name="x"), encode_pack([], [], decode_footer(FOOTER, name="x"))[-16:], None),
    "header": (lambda data: check_header(data, name="x"), b"ZVPACK\x01\x00", None),
    "value": (read_value, b"123456789" + (0xE3069283).to_bytes(4, "little"), None),
}  # fmt: skip
WRAPPED = [name for name, (_, _, kind) in PARSERS.items() if kind is not None]


def survives(read: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(StoredBytesError):
        read(data)


@st.composite
def mutated(draw, data: bytes) -> bytes:
    """Bytes changed, cut out, doubled, or overwritten by extreme numbers."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(out) - 1, 0)))
        what = draw(st.integers(0, 4))
        if what == 0:
            out[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif what == 1:
            del out[at : at + draw(st.integers(1, 9))]
        elif what == 2:
            out[at:at] = draw(st.binary(max_size=9))
        elif what == 3:
            out[at : at + 4] = draw(
                st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\xfe\xff\xff\xff"])
            )
        else:
            out[at : at + 8] = b"\xff" * 8
    return bytes(out)


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
@settings(max_examples=150)
def test_random_bytes(name, data):
    read, _, kind = PARSERS[name]
    survives(read, data.draw(st.binary(max_size=200)))
    if kind is not None:
        survives(read, wrap(kind, data.draw(st.binary(max_size=200))))


@pytest.mark.parametrize("name", PARSERS)
def test_every_truncation(name):
    read, whole, kind = PARSERS[name]
    read(whole)
    for size in range(len(whole)):
        if name == "value" and size < 5:
            survives(read, whole[:size])
            continue
        if name == "keys" and whole[:size]:
            survives(read, whole[:size])
            continue
        with pytest.raises(StoredBytesError):
            read(whole[:size])
    if kind is not None:
        payload = unwrap(whole, kind, name="x")
        for size in range(len(payload)):
            with pytest.raises(StoredBytesError):
                read(wrap(kind, payload[:size]))


@pytest.mark.parametrize("name", WRAPPED)
def test_every_flipped_bit_is_seen(name):
    read, whole, _ = PARSERS[name]
    for bit in range(len(whole) * 8):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoredBytesError):
            read(bytes(data))


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
@settings(max_examples=250)
def test_mutations(name, data):
    read, whole, _ = PARSERS[name]
    survives(read, data.draw(mutated(whole)))


@pytest.mark.parametrize("name", WRAPPED)
@given(data=st.data())
@settings(max_examples=400)
def test_mutations_with_a_valid_checksum(name, data):
    """A forger who computes checksums: what is behind them must hold as well."""
    read, whole, kind = PARSERS[name]
    assert kind is not None
    survives(read, wrap(kind, data.draw(mutated(unwrap(whole, kind, name="x")))))


@pytest.mark.parametrize("field", range(14))
@given(data=st.data())
@settings(max_examples=60)
def test_commit_fields_of_any_kind(field, data):
    record = msgspec.msgpack.decode(unwrap(COMMIT, Kind.COMMIT, name="x"))
    record[field] = data.draw(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3)
        | st.binary(max_size=20) | st.lists(st.integers() .filter(lambda n: -(2**63) <= n < 2**64) | st.binary(), max_size=3)
        | st.lists(st.tuples(st.binary(max_size=13), st.integers(-5, 2**64 - 1), st.integers(-5, 2**64 - 1)), max_size=2)
    )  # fmt: skip
    survives(read_commit, wrap(Kind.COMMIT, msgspec.msgpack.encode(record)))


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{20}\.commit"))
def test_commit_number_never_raises(name):
    number = commit_number(name)
    assert number is None or number > 0


def envelope_of(kind: int, stored: bytes, raw_length: int, *, version: int = 1, flags: int = 0) -> bytes:
    head = HEADER.pack(b"ZVEC", kind, version, flags, len(stored), raw_length, 0)[:16]
    return head + struct.pack("<I", crc32c(head + stored)) + stored


def long_keys() -> bytes:
    """A million keys of 1,000 bytes that all share their bytes: a gigabyte out of eight megabytes."""
    count = 1_000_000
    shared = np.full(count, 1000)
    shared[0] = 0
    lengths = np.zeros(count)
    lengths[0] = 1000
    return struct.pack("<I", count) + planes(shared, "<u2") + planes(lengths, "<u2") + b"k" * 1000


def long_table() -> bytes:
    keys = long_keys()
    count = 1_000_000
    head = struct.pack("<IIIIII", count, 0, 1, 1, 1000, 0)
    places = planes([0], "<u4") + planes([0xFFFFFFFE], "<u4") + planes([0], "<u8")
    return head + keys[4:] + places + bytes(8 * count) + planes([0], "<u4") + planes([1], "<u8")


def shared_inline() -> bytes:
    """Rows that all claim the same large inline value: terabytes when they are cut out."""
    count, size = 10_000, 1 << 20
    keys = encode_keys([f"k{row:05}" for row in range(count)])
    suffix_bytes = len(keys) - 4 - 4 * count
    rows = np.arange(count)
    return b"".join((
        struct.pack("<IIIIII", count, 0, count, 1, suffix_bytes, size),
        keys[4:],
        planes(rows, "<u4"), planes(np.full(count, 0xFFFFFFFF), "<u4"), planes(np.zeros(count), "<u8"),
        planes(np.full(count, size), "<u8"),
        planes([0], "<u4"), planes([1], "<u8"), bytes(size),
    ))  # fmt: skip


def wrapping_offsets() -> bytes:
    """Lengths whose sum passes 2^64, so that an end comes before its start."""
    rows = [(f"k{row:03}", Entry(1, (1 << 40) - 1, PACK, 8)) for row in range(4)]
    data = bytearray(encode_table(rows))
    at = data.index(planes([(1 << 40) - 1] * 4, "<u8"))
    data[at : at + 32] = planes([1 << 62] * 4, "<u8")
    return bytes(data)


def commit_with(**changed: object) -> bytes:
    record = msgspec.structs.asdict(decode_commit(COMMIT, name="x"))
    return wrap(Kind.COMMIT, msgspec.msgpack.encode(list({**record, **changed}.values())))


BOMBS: dict[str, tuple[Callable[[bytes], object], Callable[[], bytes]]] = {
    "zstd frame that says 4 GiB": (
        read_page,
        lambda: envelope_of(3, b"\x28\xb5\x2f\xfd\xa0" + b"\xff" * 4 + b"\x01\0\0", 0xFFFFFFFF, flags=1),
    ),
    "zstd frame longer than the header says": (
        read_page,
        lambda: envelope_of(3, zstd.compress(bytes(32 << 20), 1), 100, flags=1),
    ),
    "zstd frame shorter than the header says": (
        read_page,
        lambda: envelope_of(3, zstd.compress(bytes(100), 1), MAX_RAW_BYTES, flags=1),
    ),
    "zstd frame without a size": (read_page, lambda: envelope_of(3, b"\x28\xb5\x2f\xfd\0\x58\x01\0\0", 0, flags=1)),
    "page of a million long keys": (read_page, lambda: wrap(Kind.PAGE, long_table())),
    "root of a million long keys": (
        read_root,
        lambda: wrap(Kind.ROOT, msgspec.msgpack.encode([long_keys(), *[b""] * 10])),
    ),
    "one inline value for all rows": (read_page, lambda: wrap(Kind.PAGE, shared_inline())),
    "offsets that wrap around": (read_table, wrapping_offsets),
    "commit nested without end": (read_commit, lambda: wrap(Kind.COMMIT, b"\x9f" + b"\x91" * 1_000_000)),
    "commit with four billion clears": (
        read_commit,
        lambda: wrap(Kind.COMMIT, unwrap(COMMIT, Kind.COMMIT, name="x").replace(b"\x91\x92\xa1x\x02", b"\xdd\xff\xff\xff\xff")),
    ),
    "root of an exabyte": (read_commit, lambda: commit_with(root=b"", root_at=(PACK, 0, 1 << 60))),
    "root before the pack": (read_commit, lambda: commit_with(root=b"", root_at=(PACK, -8, 10))),
    "footer of 4 GiB": (
        lambda data: footer_length(data, name="x"),
        lambda: TRAILER.pack(0xFFFFFFFF, crc32c(b"\xff" * 4 + END_MAGIC), END_MAGIC),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_bounded_memory(name):
    read, make = BOMBS[name]
    data = make()
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(StoredBytesError):
            read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * MAX_RAW_BYTES + 4 * len(data)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    "key", ["../secret", "a/../b", "a//b", "/etc/passwd", "a/.", "tab\there", "nul\0", "", "slash/"]
)
def test_keys_that_lead_elsewhere_are_refused(key):
    rows = [(key, Entry.inline(b"x", generation=1))]
    with pytest.raises(CorruptError, match="can't be a key"):
        list(Table(encode_table(rows), name="x"))
    with pytest.raises(CorruptError, match="can't be a key"):
        decode_keys(encode_keys([key]), name="x")


@pytest.mark.parametrize("prefix", ["../a", "a//b", "a/", "/a"])
def test_cleared_prefixes_that_lead_elsewhere_are_refused(prefix):
    with pytest.raises(CorruptError, match="prefix"):
        decode_commit(commit_with(clears=[(prefix, 1)]), name="x")


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"version": 2}, FormatVersionError),
        ({"flags": 2}, FormatVersionError),
        ({"version": 0}, CorruptError),
    ],
)
def test_what_is_newer_says_so(changed, error):
    with pytest.raises(error, match=r"x: "):
        unwrap(envelope_of(3, b"payload", 7, **changed), Kind.PAGE, name="x")


def test_pages_that_overlap_are_refused():
    pages = [
        PageRef(first, last, Location(PACK, 8, 99), 1, 1, ())
        for first, last in (("a/1", "a/5"), ("a/3", "a/9"))
    ]
    with pytest.raises(CorruptError, match="overlap"):
        decode_root(encode_root(Root(pages, [PackRef(PACK, 0)])), name="x", number=1)
