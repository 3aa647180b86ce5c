"""Are ranges of entries found in chunks and in zarr's shards, whatever the order of what is in a shard?"""

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from zarrvec.errors import CorruptError
from zarrvec.search.arrays import create_entries
from zarrvec.search.entries import CHUNK_BYTES, INNER_BYTES, SHARD_BYTES, EntriesReader

MISSING = 2**64 - 1


def shard_of(chunks, order):
    """Write a shard whose chunks stand in an order of our choice; those left out are missing."""
    index = np.full((len(chunks), 2), MISSING, dtype="<u8")
    body = b""
    for number in order:
        index[number] = len(body), len(chunks[number])
        body += chunks[number]
    raw = index.tobytes()
    return body + raw + google_crc32c.value(raw).to_bytes(4, "little")


def read(reader, values, spans):
    wants = reader.index_wants()
    reader.take_indexes(wants, [memoryview(values[want.key])[want.start :] for want in wants])
    wants = reader.wants(spans)
    return reader.join(spans, [memoryview(values[want.key])[want.start : want.stop] for want in wants]), wants


@given(st.data())
def test_spans_of_shards_in_any_order(data):
    rows, chunk_rows, chunks = (
        data.draw(st.integers(1, 60)),
        data.draw(st.integers(1, 7)),
        data.draw(st.integers(1, 4)),
    )
    entry_bytes = data.draw(st.integers(1, 5))
    shard_rows = chunk_rows * chunks
    shards = -(-rows // shard_rows)
    entries = np.random.default_rng(rows).integers(1, 256, (shards * shard_rows, entry_bytes), dtype="u1")
    values = {}
    for shard in range(shards):
        order = data.draw(st.lists(st.integers(0, chunks - 1), unique=True))
        part = entries[shard * shard_rows : (shard + 1) * shard_rows].reshape(chunks, -1)
        part[[number for number in range(chunks) if number not in order]] = 0
        values[f"s/entries/c/{shard}/0"] = shard_of([chunk.tobytes() for chunk in part], order)
    reader = EntriesReader(
        name="s/entries", rows=rows, entry_bytes=entry_bytes, chunk_rows=chunk_rows, shard_rows=shard_rows
    )
    edges = st.integers(0, rows)
    spans = [tuple(sorted(span)) for span in data.draw(st.lists(st.tuples(edges, edges), max_size=10))]
    parts, _ = read(reader, values, spans)
    for (start, stop), part in zip(spans, parts, strict=True):
        assert bytes(part) == entries[start:stop].tobytes()


def test_neighbours_in_a_shard_are_read_as_one():
    entries = np.arange(240, dtype="u1").reshape(120, 2)
    chunks = [part.tobytes() for part in np.split(entries, 12)]
    values = {"s/entries/c/0/0": shard_of(chunks, range(12))}
    reader = EntriesReader(name="s/entries", rows=120, entry_bytes=2, chunk_rows=10, shard_rows=120)
    parts, wants = read(reader, values, [(5, 95)])
    assert len(wants) == 1
    assert bytes(parts[0]) == entries[5:95].tobytes()


def reader_of(array):
    """Make the reader of an array as zarr cut it."""
    return EntriesReader(
        name="s/entries",
        rows=array.shape[0],
        entry_bytes=array.shape[1],
        chunk_rows=array.chunks[0],
        shard_rows=array.shards[0],
    )


def test_zarr_writes_what_is_read():
    store = MemoryStore()
    array = create_entries(zarr.create_group(store), "s/entries", 9000, 100)
    entries = np.random.default_rng(0).integers(0, 256, (9000, 100), dtype="u1")
    entries[3000:6000] = 0
    array[:] = entries
    values = {key: value.to_bytes() for key, value in store._store_dict.items()}
    reader = reader_of(array)
    assert reader.chunk_rows * 100 <= INNER_BYTES
    parts, wants = read(reader, values, [(0, 9000), (10, 20)])
    assert bytes(parts[0]) == entries.tobytes()
    assert bytes(parts[1]) == entries[10:20].tobytes()
    assert all(want.key == "s/entries/c/0/0" for want in wants)


@given(st.integers(0, 10**9), st.integers(1, 10**5), st.booleans())
def test_what_is_planned_is_within_bounds(rows, entry_bytes, versioned):
    reader = EntriesReader.planned("s/entries", rows, entry_bytes, versioned=versioned)
    assert reader.chunk_bytes <= max(entry_bytes, CHUNK_BYTES if versioned else INNER_BYTES)
    unit = reader.chunk_rows if versioned else reader.shard_rows
    assert unit * entry_bytes <= max(entry_bytes, CHUNK_BYTES if versioned else SHARD_BYTES)
    assert unit % reader.chunk_rows == 0
    units = -(-rows // unit)
    filled_up = units * unit - rows
    assert filled_up <= max(1, units * reader.chunk_rows if not versioned else units)


@pytest.mark.parametrize("damage", [0, 8, 16 * 12, 16 * 12 + 3])
def test_a_damaged_index_of_a_shard(damage):
    chunks = [bytes([number]) * 20 for number in range(12)]
    value = bytearray(shard_of(chunks, range(12)))
    value[12 * 20 + damage] ^= 1
    reader = EntriesReader(name="s/entries", rows=120, entry_bytes=2, chunk_rows=10, shard_rows=120)
    with pytest.raises(
        CorruptError, match=r"s/entries/c/0/0: the index of this shard is damaged.*build_index"
    ):
        read(reader, {"s/entries/c/0/0": value}, [(0, 1)])


@pytest.mark.parametrize("row", [(0, 19), (2**63, 20), (MISSING, 20), (0, MISSING)])
def test_an_index_that_names_a_wrong_place(row):
    index = np.array([row], dtype="<u8").tobytes()
    value = bytes(20) + index + google_crc32c.value(index).to_bytes(4, "little")
    reader = EntriesReader(name="s/entries", rows=10, entry_bytes=2, chunk_rows=10, shard_rows=10)
    with pytest.raises(CorruptError, match="damaged"):
        read(reader, {"s/entries/c/0/0": value}, [(0, 1)])


@pytest.mark.parametrize("span", [(0, 11), (-1, 2), (5, 4)])
def test_a_list_outside_of_the_entries(span):
    reader = EntriesReader(name="s/entries", rows=10, entry_bytes=2, chunk_rows=10)
    with pytest.raises(CorruptError, match="but there are 10"):
        reader.wants([span])
