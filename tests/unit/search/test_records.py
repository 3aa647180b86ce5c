"""Are the bytes of posting lists what ``specs/vector-index.md`` says?"""

from typing import Any

import numpy as np
import pytest

from zarrvec.format.envelope import crc32c
from zarrvec.search.records import Entries, Layout, take


def entries_of(count, layout, seed=0):
    random = np.random.default_rng(seed)
    floats = random.normal(size=(3, count)).astype("f4")
    return Entries(
        random.integers(1 << 8 * layout.id_bytes - 1, size=count).astype(f"u{layout.id_bytes}"),
        floats[0],
        floats[1],
        floats[2] if layout.has_norms else None,
        random.integers(256, size=(count, layout.width)).astype("u1"),
    )


@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize("id_bytes", [4, 8])
@pytest.mark.parametrize("width", [1, 2, 5, 64])
def test_sizes(width, id_bytes, has_norms):
    layout = Layout(width=width, id_bytes=id_bytes, has_norms=has_norms)
    packed = layout.pack(entries_of(7, layout))
    assert packed.size == layout.total_bytes(7) == 7 * layout.entry_bytes
    assert layout.total_bytes(7) - layout.head_bytes(7) == 7 * layout.half == 7 * -(-width // 2)
    assert layout.list_bytes == 28 + width


def test_columns_lie_one_after_another():
    layout = Layout(width=3, id_bytes=8, has_norms=True)
    entries = entries_of(5, layout)
    packed = layout.pack(entries).tobytes()
    assert packed[:40] == entries.ids.tobytes()
    assert packed[40:60] == entries.scales.tobytes()
    assert packed[60:80] == entries.errors.tobytes()
    assert packed[80:100] == entries.norms.tobytes()
    high, low = np.frombuffer(packed[100:], "u1").reshape(2, 5, 2)
    codes = entries.codes
    np.testing.assert_array_equal(high[:, 0], codes[:, 0] >> 4 | codes[:, 2] & 0xF0)
    np.testing.assert_array_equal(low[:, 0], codes[:, 0] & 15 | (codes[:, 2] & 15) << 4)
    np.testing.assert_array_equal(high[:, 1], codes[:, 1] >> 4)  # nothing where there is no dimension
    np.testing.assert_array_equal(low[:, 1], codes[:, 1] & 15)


@pytest.mark.parametrize("width", [1, 6, 7])
def test_a_list_without_low_planes_is_coarser(width):
    layout = Layout(width=width, id_bytes=4, has_norms=False)
    entries = entries_of(9, layout)
    head = layout.pack(entries)[: layout.head_bytes(9)]
    found = layout.unpack(head, 9, bits=4)
    np.testing.assert_array_equal(found.ids, entries.ids)
    assert (np.abs(found.codes.astype(int) - entries.codes) <= 8).all()
    np.testing.assert_array_equal(found.codes, entries.codes & 0xF0 | 8)


COUNTS = [[], [0], [3, 0, 5, 1], [1500, 0, 700]]


@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize("counts", COUNTS)
def test_lists_are_packed_as_one_after_another(counts, has_norms):
    layout = Layout(width=5, id_bytes=8, has_norms=has_norms)
    entries = entries_of(2_500, layout)  # more than are in the lists
    order = np.random.default_rng(1).permutation(2_500)[: sum(counts)]
    packed = layout.pack_lists(entries, order, np.array(counts, "i8"))
    each = [layout.pack(take(entries, part)) for part in np.split(order, np.cumsum(counts)[:-1].astype("i8"))]
    assert packed.tobytes() == b"".join(each)


@pytest.mark.parametrize("counts", COUNTS)
def test_lists_of_sources_are_joined_one_by_one(counts):
    layout = Layout(width=5, id_bytes=4, has_norms=True)
    of_each = [np.array(counts, "i8"), np.zeros(len(counts), "i8"), np.array(counts[::-1], "i8")]
    sources: list[Any] = []
    lists: list[list[Entries]] = [[] for _ in counts]
    for seed, some in enumerate(of_each):
        entries, stops = entries_of(int(some.sum()), layout, seed), np.cumsum(some)
        for number, stop in enumerate(stops):
            lists[number].append(take(entries, slice(stop - some[number], stop)))
        sources.append((layout.pack_lists(entries, np.arange(some.sum()), some), some))
    joined = layout.join_lists([sources[0], (memoryview(b""), sources[1][1]), sources[2]])
    together = [Entries(*map(np.concatenate, zip(*parts, strict=True))) for parts in lists]
    assert joined.tobytes() == b"".join(layout.pack(entries).tobytes() for entries in together)
    checksums = layout.checksums(joined, np.sum(of_each, axis=0)).tolist()
    for entries, (head, low) in zip(together, checksums, strict=True):
        data, end = layout.pack(entries).tobytes(), layout.head_bytes(len(entries.ids))
        assert (head, low) == (crc32c(data[:end]), crc32c(data[end:]))


def test_empty_lists():
    layout = Layout(width=3, id_bytes=4, has_norms=True)
    assert layout.pack(entries_of(0, layout)).size == 0
    assert layout.unpack(b"", 0).codes.shape == (0, 3)


def test_ids_of_any_integer_type_are_taken():
    layout = Layout(width=2, id_bytes=4, has_norms=False)
    entries = entries_of(3, layout)._replace(ids=np.array([1, 2, 2**32 - 1], dtype=np.int64))
    assert layout.unpack(layout.pack(entries), 3).ids.tolist() == [1, 2, 2**32 - 1]


def test_checksums_of_any_buffer():
    data = np.arange(9, dtype="u1")
    assert crc32c(data) == crc32c(memoryview(data)) == crc32c(data.tobytes()) == crc32c(bytearray(data))
