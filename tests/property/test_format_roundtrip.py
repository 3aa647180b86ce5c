"""Does everything in `zarrvec.format` read back what it wrote, and is the order of keys a total one?"""

import re
import struct

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from zarrvec.errors import KeyNameError, StoredBytesError
from zarrvec.format.commit import Commit, commit_name, commit_number, decode_commit, encode_commit
from zarrvec.format.envelope import HEADER, Kind, crc32c, envelope_length, unwrap, wrap
from zarrvec.format.keys import (
    METADATA_NAMES,
    check_key,
    first_bad_key,
    is_below,
    is_metadata,
    prefix_ranges,
    sort_key,
)
from zarrvec.format.manifest import (
    PAGE_ENTRIES,
    PAGE_RAW_BYTES,
    Root,
    decode_page,
    decode_root,
    encode_page,
    encode_root,
    split_pages,
)
from zarrvec.format.pack import (
    TRAILER,
    Footer,
    check_header,
    check_value,
    decode_footer,
    encode_pack,
    footer_length,
    pack_name,
    value_offsets,
    values_end,
)
from zarrvec.format.table import Table, decode_keys, encode_keys, encode_table, planes, unplanes
from zarrvec.types import Clear, Entry, Location, PackRef, PageRef

pytestmark = pytest.mark.once

segments = st.one_of(
    st.integers(0, 120).map(str),
    st.sampled_from(
        [*sorted(METADATA_NAMES), "c", "a", "a-b", "a0", "a00", "a10b2", "007", "zarr", "é", "日本9"]
    ),
    st.text(
        st.characters(codec="utf-8", exclude_characters="/\x7f", min_codepoint=32), min_size=1, max_size=6
    ),
).filter(lambda segment: segment not in (".", ".."))
keys = st.lists(segments, min_size=1, max_size=4).map("/".join)
packs = st.binary(min_size=12, max_size=12)
generations = st.integers(0, 5) | st.integers(0, 2**64 - 1)
entries = st.one_of(
    st.builds(
        lambda data, generation: Entry.inline(data, generation=generation),
        st.binary(max_size=40),
        generations,
    ),
    st.builds(Entry, generations),
    st.builds(
        Entry,
        generations,
        st.integers(0, 50) | st.integers(0, 2**40 - 1),
        st.sampled_from([b"p" * 12, b"q" * 12]),
        st.integers(0, 100) | st.integers(0, 2**61),
    ),
)


def in_order(rows):
    return sorted(rows.items(), key=lambda row: sort_key(row[0]))


tables = st.dictionaries(keys, entries, max_size=30).map(in_order)


def oracle(key):
    """The order as the spec tells it in words: (class, segments), digits as numbers at the place of '0'."""
    parts = []
    for segment in key.split("/"):
        units = []
        for run in re.findall("[0-9]+|[^0-9]+", segment):
            if run[0] in "0123456789":
                units.append((0x30, int(run), len(run) - len(str(int(run))) + (int(run) == 0)))
            else:
                units.extend((byte, 0, 0) for byte in run.encode())
        parts.append(units)
    return (0 if key.rpartition("/")[2] in METADATA_NAMES else 1), parts


@given(st.lists(keys, max_size=12, unique=True))
@example(["a/c/10", "a/c/9", "a/c/9/1", "a/c/09", "a-b/c/0", "a/zarr.json", "c/0", "c/00", "zarr.json"])
def test_order_equals_the_oracle(some):
    assert sorted(some, key=sort_key) == sorted(some, key=oracle)


@given(keys, keys)
def test_order_is_total(left, right):
    assert (sort_key(left) == sort_key(right)) == (left == right)


@given(keys, st.lists(segments, max_size=3).map("/".join))
def test_a_prefix_is_two_ranges(key, prefix):
    inside = [start <= sort_key(key) < end for start, end in prefix_ranges(prefix)]
    assert sum(inside) == is_below(key, prefix)
    if is_below(key, prefix):
        assert inside[0] == is_metadata(key)


@given(
    st.text(max_size=20) | keys | st.sampled_from(["", "/", "a//b", "../a", "a/..", ".", "a\n", "x" * 1025])
)
def test_bad_keys_are_found_among_many(key):
    if not key.isascii() and any("\ud800" <= char <= "\udfff" for char in key):
        return  # can't come out of UTF-8
    try:
        check_key(key)
    except KeyNameError:
        if len(key) <= 1024:
            assert first_bad_key(["a", key, "b"]) == key
    else:
        assert first_bad_key(["a", key, "b"]) is None


@given(st.sampled_from(Kind), st.binary(max_size=300) | st.integers(0, 5000).map(bytes))
def test_envelope(kind, payload):
    data = wrap(kind, payload)
    assert envelope_length(data) == len(data)
    assert unwrap(data, kind, name="x") == unwrap(memoryview(data), kind, name="x") == payload
    assert len(data) <= HEADER.size + len(payload)
    other = Kind(kind % len(Kind) + 1)
    with pytest.raises(StoredBytesError):
        unwrap(data, other, name="x")


@given(tables)
def test_table(rows):
    table = Table(encode_table(rows), name="x")
    table.check_order()
    assert list(table) == rows
    assert len(table) == len(rows)
    assert [table.find(key) for key, _ in rows] == [entry for _, entry in rows]
    assert table.find("not/there/at/all/of/them") is None
    used = dict(table.usage())
    for pack, total in used.items():
        expected = sum(entry.length for _, entry in rows if entry.pack == pack)
        assert total == pytest.approx(expected, rel=1e-12)


@given(tables, st.integers(1, 2**63))
def test_page_generation_zero_is_the_commit_that_wrote_it(rows, number):
    found = list(decode_page(encode_page(rows), name="x", number=number))
    assert found == [(key, entry.at(entry.generation or number)) for key, entry in rows]


@given(st.lists(keys, max_size=30))
def test_keys(some):
    assert decode_keys(encode_keys(some), name="x") == some


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_planes(values):
    assert unplanes(planes(values, "<u4"), "<u4").tolist() == values


@given(
    st.lists(st.tuples(st.integers(1, 900), st.integers(0, 120_000)), max_size=40),
    st.sampled_from([1, 7, 5000]),
)
@settings(max_examples=30)
def test_split_pages_keeps_rows_and_bounds(shapes, repeat):
    shared = b"x" * 120_000
    rows = [
        (
            f"k{index}-{copy}" + "y" * (key if repeat < 9 else 0),
            Entry.inline(shared[: size if repeat < 9 else 0]),
        )
        for index, (key, size) in enumerate(shapes[: 40 if repeat < 9 else 2])
        for copy in range(repeat)
    ]
    pages = list(split_pages(rows))
    assert [row for page in pages for row in page] == rows
    for page in pages:
        size = sum(len(key) + 24 + entry.length for key, entry in page)
        assert len(page) <= PAGE_ENTRIES
        assert size <= PAGE_RAW_BYTES or len(page) == 1


@st.composite
def roots(draw):
    bounds = sorted(draw(st.lists(keys, unique=True, max_size=16)), key=sort_key)
    known = draw(st.lists(packs, min_size=1, max_size=4, unique=True))
    pages = []
    for first, last in zip(bounds[::2], bounds[1::2], strict=False):
        usage = draw(st.dictionaries(st.sampled_from(known), st.integers(0, 2**61), max_size=3))
        where = Location(
            draw(st.sampled_from(known)), draw(st.integers(8, 2**61)), draw(st.integers(20, 2**26 + 20))
        )
        pages.append(
            PageRef(
                first, last, where, draw(st.integers(1, 4096)), draw(st.integers(0, 9)), tuple(usage.items())
            )
        )
    return Root(pages, [PackRef(pack, draw(st.integers(0, 2**61))) for pack in known])


@given(roots(), st.integers(1, 2**63))
def test_root(root, number):
    found = decode_root(encode_root(root), name="x", number=number)
    assert found.packs == root.packs
    assert [(p.first, p.last, p.location, p.count, p.usage) for p in found.pages] == [
        (p.first, p.last, p.location, p.count, p.usage) for p in root.pages
    ]
    assert [page.number for page in found.pages] == [page.number or number for page in root.pages]


@given(roots(), keys)
def test_page_of_is_a_search(root, key):
    holds = [
        index
        for index, page in enumerate(root.pages)
        if sort_key(page.first) <= sort_key(key) <= sort_key(page.last)
    ]
    assert root.page_of(key) == (holds[0] if holds else None)
    below = root.pages_below(key)
    assert below == sorted(set(below))
    assert all(index in below for index in range(len(root.pages)) if is_below(root.pages[index].first, key))
    assert root.pages_below("") == list(range(len(root.pages)))
    assert all(
        is_below(root.pages[index].first, key) and is_below(root.pages[index].last, key)
        for index in range(len(root.pages))
        if root.covers(key, index)
    )


clears = st.lists(st.builds(Clear, st.just("") | keys, st.just(1)), max_size=3)
pack_refs = st.lists(st.builds(PackRef, packs, st.integers(0, 2**61)), max_size=3)


@st.composite
def commits(draw):
    number = draw(st.integers(1, 2**63 - 1))
    in_pack = draw(st.booleans())
    return Commit(
        number=number,
        write_id=draw(st.binary(min_size=16, max_size=16)),
        parent=draw(st.just(b"") | st.binary(min_size=16, max_size=16)),
        time_us=draw(st.integers(0, 2**55)),
        author=draw(st.text(max_size=8)),
        message=draw(st.text(max_size=200)),
        automatic=draw(st.booleans()),
        root=b"" if in_pack else draw(st.binary(max_size=60)),
        root_at=Location(draw(packs), draw(st.integers(0, 2**61)), draw(st.integers(20, 2**26)))
        if in_pack
        else None,
        root_number=draw(st.integers(0, number)),
        delta=encode_table(draw(tables)),
        clears=draw(clears),
        packs=draw(pack_refs),
        writer="zarrvec test",
    )


@given(commits())
def test_commit(commit):
    assert decode_commit(encode_commit(commit), name="x") == commit


@given(st.integers(1, 2**64 - 2), st.integers(1, 2**64 - 2))
def test_commit_names(left, right):
    assert commit_number(commit_name(left)) == left
    assert (left < right) == (commit_name(left) > commit_name(right))


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{19,21}\.commit", fullmatch=True))
def test_other_names_are_no_commits(name):
    number = commit_number(name)
    assert number is None or commit_name(number) == name


@given(
    st.dictionaries(keys, st.binary(max_size=60), max_size=12),
    tables,
    clears,
    st.lists(tables.filter(bool), max_size=2),
    st.booleans(),
)
def test_pack(values, changes, prefixes, page_rows, has_root):
    pack = bytes(range(12))
    rows = in_order(values)
    offsets = value_offsets([len(data) for _, data in rows])
    end = values_end([len(data) for _, data in rows])
    structures = [encode_page(table) for table in page_rows]
    places = []
    for structure in structures:
        places.append((end, len(structure)))
        end += len(structure)
    root_place = None
    if has_root:
        structures.append(encode_root(Root()))
        root_place = (end, len(structures[-1]))
    footer = Footer(
        pack=pack,
        base=7,
        time_us=1_700_000_000_000_000,
        values=encode_table(
            [(key, Entry(0, len(data), pack, at)) for (key, data), at in zip(rows, offsets, strict=True)]
        ),
        changes=encode_table([row for row in changes if not row[1].pack]),
        clears=prefixes,
        pages=places,
        root=root_place,
    )
    data = encode_pack([value for _, value in rows], structures, footer)

    check_header(data[:8], name="x")
    length = footer_length(data[-TRAILER.size :], name="x")
    found = decode_footer(data[-TRAILER.size - length : -TRAILER.size], name="x")
    assert found == footer
    for key, entry in Table(found.values, name="x"):
        stored = data[entry.offset : entry.offset + entry.length]
        crc = data[entry.offset + entry.length : entry.offset + entry.length + 4]
        assert check_value(stored, crc, name="x") == values[key]
        assert crc == struct.pack("<I", crc32c(stored))
    for table, (at, size) in zip(page_rows, found.pages, strict=True):
        assert [key for key, _ in decode_page(data[at : at + size], name="x", number=8)] == [
            key for key, _ in table
        ]


@given(packs, packs)
def test_pack_names(left, right):
    assume(left != right)
    assert pack_name(left) != pack_name(right)
    assert re.fullmatch(r"packs/[0-9a-f]{2}/[0-9a-f]{24}\.pack", pack_name(left))
