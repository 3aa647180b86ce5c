"""Does every part of an index come back as it was written, and is whatever else stands there refused in bounded memory?"""

import contextlib
import copy
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numcodecs import zstd

from zarrvec.errors import CorruptError, FormatVersionError, StoredBytesError
from zarrvec.format.envelope import crc32c
from zarrvec.search.cache import LISTS, ROOTS
from zarrvec.search.editing import need_head
from zarrvec.search.entries import EntriesReader
from zarrvec.search.head import Head
from zarrvec.search.index import open_index
from zarrvec.search.list_table import SHARED_HEAD, ListTable, pack_rows, unpack_rows
from zarrvec.search.lists import read_lists
from zarrvec.search.places import Snapshot
from zarrvec.search.quantize import quantize, quantize_centroids
from zarrvec.search.records import LIST_HEAD, Entries, Layout

VECTORS = Path(__file__).parents[2] / "specs" / "vectors"
GOLDEN: dict[str, Any] = json.loads((VECTORS / "index.json").read_text())

layouts = st.builds(
    Layout, width=st.integers(1, 40), id_bytes=st.sampled_from([4, 8]), has_norms=st.booleans()
)
floats = st.floats(width=32)


@st.composite
def lists_of(draw, layout):
    count = draw(st.integers(0, 12))

    def column(dtype, elements=None, shape=count):
        return draw(hnp.arrays(dtype, shape, elements=elements))

    return Entries(
        column(f"<u{layout.id_bytes}"),
        column("<f4", floats),
        column("<f4", floats),
        column("<f4", floats) if layout.has_norms else None,
        column("u1", shape=(count, layout.width)),
    )


@given(st.data())
def test_posting_lists_come_back(data):
    layout = data.draw(layouts)
    entries = data.draw(lists_of(layout))
    count = len(entries.ids)
    packed = layout.pack(entries)
    assert packed.size == layout.total_bytes(count)
    found = layout.unpack(packed, count)
    for name, column in zip(Entries._fields, entries, strict=True):
        if column is None:
            assert getattr(found, name) is None
        else:
            assert getattr(found, name).tobytes() == column.tobytes()
    coarse = layout.unpack(packed[: layout.head_bytes(count)], count, bits=4)
    np.testing.assert_array_equal(coarse.codes, entries.codes & 0xF0 | 8)
    assert coarse.ids.tobytes() == entries.ids.tobytes()


@given(st.data())
def test_any_bytes_of_the_right_length_are_a_posting_list(data):
    layout = data.draw(layouts)
    count = data.draw(st.integers(0, 9))
    raw = data.draw(st.binary(min_size=layout.total_bytes(count), max_size=layout.total_bytes(count)))
    found = layout.unpack(raw, count)
    if layout.width % 2 == 0:
        assert layout.pack(found).tobytes() == raw


@given(st.data())
def test_tables_of_lists_come_back(data):
    layout = data.draw(layouts)
    count = data.draw(st.integers(0, 9))
    heads = np.frombuffer(data.draw(st.binary(min_size=28 * count, max_size=28 * count)), LIST_HEAD).copy()
    heads["scale"] = data.draw(
        hnp.arrays("<f4", count, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
    )
    table = ListTable(heads, data.draw(hnp.arrays("i1", (count, layout.width))))
    found = ListTable.decode(table.encode(), layout, name="x")
    assert found.heads.tobytes() == heads.tobytes()
    np.testing.assert_array_equal(found.centroids, table.centroids)


@given(st.binary(max_size=200), layouts)
def test_any_bytes_are_a_table_or_refused(raw, layout):
    with contextlib.suppress(CorruptError):
        ListTable.decode(raw, layout, name="x").vectors()


@given(st.binary(max_size=60), st.booleans(), st.integers(0, 40))
def test_any_bytes_are_a_compressed_table_or_refused(raw, in_frame, count):
    with contextlib.suppress(CorruptError):
        rows = unpack_rows(bytes(zstd.compress(raw, 1)) if in_frame else raw, count, 3, name="x")
        assert rows.shape == (count, 3)
        assert unpack_rows(pack_rows(rows), count, 3, name="x").tobytes() == rows.tobytes()


@given(
    hnp.arrays(
        "f4", st.tuples(st.integers(1, 6), st.integers(1, 20)), elements=st.floats(-1e9, 1e9, width=32)
    ),
    st.integers(0, 5),
)
def test_codes_are_within_their_error(vectors, shift):
    codes, scales = quantize_centroids(np.roll(vectors, shift, axis=0))
    centroids = codes.astype("f4") * scales[:, None]
    coded = quantize(vectors, centroids)
    exact = centroids.astype("f8") + coded.scales.astype("f8")[:, None] * (coded.codes.astype("f8") - 128)
    away = np.sqrt(((vectors - exact) ** 2).sum(axis=1))
    width = vectors.shape[1]
    rounding = 2.0**-22 * width**0.5 * (np.abs(vectors).max() + np.abs(centroids).max())
    assert (away <= coded.errors + rounding + 2.0**-63 * width**0.5).all()


@given(
    hnp.arrays(
        "f4", st.tuples(st.integers(1, 6), st.integers(1, 20)), elements=st.floats(-1e9, 1e9, width=32)
    ),
    st.floats(1e-6, 10),
)
@example(np.array([[3.498e-42]], "f4"), 1e-6)  # its square is no float32
def test_codes_of_few_values_are_within_the_error_that_is_allowed(vectors, allowed):
    error = allowed * float((vectors.astype("f8") ** 2).mean())
    codes, scales = quantize_centroids(vectors, error)
    steps = [step for step in (18, 6, 2) if not (codes % step).any()]
    if not steps:
        assert (codes == quantize_centroids(vectors)[0]).all()
    elif codes.any():
        away = (codes * scales[:, None].astype("f8") - vectors) ** 2
        assert (
            away.sum(axis=1).mean() <= error * (1 + 1e-3) or (codes == quantize_centroids(vectors)[0]).all()
        )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def paths_of(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from paths_of(item, (*path, name))


HEAD = GOLDEN["l2"]["head"]
PATHS = list(paths_of(HEAD))


def changed(path, value):
    head = copy.deepcopy(HEAD)
    if not path:
        return value
    place = head
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return head


def use(head: Head) -> None:
    """Do with a head what a search does before it reads anything."""
    assert (head.units, head.covered, head.rows, head.nlist) is not None
    assert head.layout.entry_bytes > 0
    for recall in (0.01, 0.95, 1.0):
        for bits in (4, 8, None):
            for k in (1, 10, 1e6):
                nprobe = head.calibration.nprobe_for(recall, k, bits=bits)
                assert nprobe is None or nprobe >= 1
    json.dumps(head.encode())


@pytest.mark.once
@given(st.sampled_from(PATHS), json_values)
@settings(max_examples=600)
def test_heads_of_any_values_are_usable_or_refused(path, value):
    with contextlib.suppress(StoredBytesError):
        use(Head.decode(changed(path, value), name="x"))


@pytest.mark.parametrize("path", [path for path in PATHS if path], ids=lambda path: ".".join(map(str, path)))
def test_heads_without_a_part_are_usable_or_refused(path):
    head = copy.deepcopy(HEAD)
    place = head
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    with contextlib.suppress(StoredBytesError):
        use(Head.decode(head, name="x"))


@pytest.mark.once
@given(json_values)
def test_anything_is_a_head_or_refused(value):
    with contextlib.suppress(StoredBytesError):
        use(Head.decode(value, name="x"))


@given(st.integers(2, 2**70))
def test_newer_heads_say_so(version):
    with pytest.raises(FormatVersionError):
        Head.decode({"format": version}, name="x")


VALUES = {
    name: {key: bytes.fromhex(data) for key, data in index["values"].items()}
    for name, index in GOLDEN.items()
}
BUFFER = zarr.core.buffer.default_buffer_prototype().buffer


def opened(name: str, head: Any, values: dict[str, bytes]) -> None:
    """Open an index, read all its lists, and search it."""
    ROOTS.clear()
    LISTS.clear()
    held: dict[str, Any] = {}
    array = zarr.create_array(
        zarr.storage.MemoryStore(held), name="x", data=np.array(GOLDEN[name]["rows"], "f4"), chunks=(10, 6)
    )
    document = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"zarrvec_index": head}})
    held.update({f"x.vec/{key}": BUFFER.from_bytes(data) for key, data in values.items()})
    held["x.vec/zarr.json"] = BUFFER.from_bytes(document.encode())
    snapshot = Snapshot.of(array)
    index = open_index(snapshot, need_head(snapshot))
    read_lists(snapshot, [(part, np.flatnonzero(part.counts)) for part in index.parts], 8)
    array.vec.search(np.ones(6), k=3, nprobe=4)


@pytest.mark.parametrize("name", GOLDEN)
@given(data=st.data())
@settings(max_examples=60)
def test_flipped_bits_are_seen(name, data):
    key = data.draw(st.sampled_from(sorted(VALUES[name])))
    damaged = bytearray(VALUES[name][key])
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        opened(name, GOLDEN[name]["head"], {**VALUES[name], key: bytes(damaged)})
    except CorruptError:
        return
    segment = next(each for each in GOLDEN[name]["head"]["segments"] if key.startswith(each["id"]))
    layout = Head.decode(GOLDEN[name]["head"], name=name).layout
    if "/lists/" in key and segment["lists_packed"]:  # a bit of the frame that doesn't matter
        before, after = (
            unpack_rows(frame, segment["lists"], layout.list_bytes, name=key)
            for frame in (VALUES[name][key], bytes(damaged))
        )
        assert (before == after).all()
        return
    assert "/entries/" in key or ("/lists/" in key and segment["groups"])
    rows, row_bytes, cut = segment["entries"], layout.entry_bytes, segment
    if "/lists/" in key:
        rows, row_bytes, cut = segment["lists"], layout.list_bytes, segment["groups"]
    if cut["shard_rows"] is None:  # rows in the last chunk, else in the only shard
        rows -= (-(-rows // cut["chunk_rows"]) - 1) * cut["chunk_rows"]
    assert at >= rows * row_bytes  # only what fills it up


@pytest.mark.parametrize("name", GOLDEN)
@given(data=st.data())
@settings(max_examples=60)
def test_values_that_were_cut_or_forged_are_refused_or_answer(name, data):
    """A forger who computes checksums: what is behind them must hold as well."""
    key = data.draw(st.sampled_from(sorted(VALUES[name])))
    head = copy.deepcopy(GOLDEN[name]["head"])
    raw = bytearray(VALUES[name][key])
    packed = key == f"{head['segments'][0]['id']}/lists/c/0/0" and head["segments"][0]["lists_packed"]
    in_frame = packed and data.draw(st.booleans())
    if in_frame:
        raw = bytearray(zstd.decompress(raw))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(raw) - 1)))
        what = data.draw(st.integers(0, 3))
        if what == 0:
            raw[at : at + 4] = data.draw(
                st.sampled_from([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f", b"\0\0\xc0\x7f"])
            )
        elif what == 1:
            del raw[at : at + data.draw(st.integers(1, 40))]
        elif what == 2:
            raw[at:at] = data.draw(st.binary(max_size=40))
        else:
            raw[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
    if in_frame:
        if len(raw) % 4 == 0:
            rows = np.frombuffer(raw, "u1").reshape(-1, 4).T
            head["segments"][0]["lists_crc32c"] = crc32c(rows.tobytes())
        raw = bytearray(zstd.compress(raw, 1))
    for segment in head["segments"]:
        if key == f"{segment['id']}/lists/c/0/0" and not packed:
            segment["lists_crc32c"] = crc32c(bytes(raw))
        elif key == f"{segment['id']}/origin/c/0":
            segment["origin_crc32c"] = crc32c(bytes(raw))
    if key.startswith(head["deleted_ids"]["id"]):
        head["deleted_ids"]["crc32c"] = crc32c(bytes(raw))
    with contextlib.suppress(StoredBytesError):
        opened(name, head, {**VALUES[name], key: bytes(raw)})


def test_deleted_ids_whose_differences_are_beyond_int64_are_refused():
    head = copy.deepcopy(GOLDEN["cosine"]["head"])
    key = f"{head['deleted_ids']['id']}/c/0"
    ids = np.frombuffer(VALUES["cosine"][key], "<i8").copy()
    assert len(ids) > 2
    ids[:3] = 6, 5 - 2**63, 4  # as int64 each is 2^63 - 1 more than the one before
    forged = ids.tobytes()
    head["deleted_ids"]["crc32c"] = crc32c(forged)
    with pytest.raises(StoredBytesError, match="deleted ids"):
        opened("cosine", head, {**VALUES["cosine"], key: forged})


@given(st.binary(max_size=200))
def test_any_bytes_are_the_index_of_a_shard_or_refused(raw):
    reader = EntriesReader(name="s/entries", rows=40, entry_bytes=18, chunk_rows=16, shard_rows=48)
    wants = reader.index_wants()
    sealed = raw[:48].ljust(48, b"\xff")
    sealed += crc32c(sealed).to_bytes(4, "little")
    for data in (raw[:52].ljust(52, b"\0"), sealed):
        with contextlib.suppress(CorruptError):
            reader.take_indexes(wants, [memoryview(data)])
            reader.wants([(0, 40)])


HUGE: dict[str, dict[str, Any]] = {
    "lists": {"segments": [{**HEAD["segments"][0], "lists": 1 << 47, "entries": 1 << 48, "rows": 1}]},
    "entries": {"segments": [{**HEAD["segments"][0], "entries": 1 << 48, "chunk_rows": 1 << 48}]},
    "shards": {"segments": [{**HEAD["segments"][0], "chunk_rows": 1, "shard_rows": 1 << 48}]},
    "units": {"grid": [1 << 24, 1 << 24]},
    "deleted": {"deleted_ids": {**HEAD["deleted_ids"], "count": 1 << 48}},
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_numbers_take_no_memory(name):
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with contextlib.suppress(StoredBytesError):
            opened("l2", {**HEAD, **HUGE[name]}, VALUES["l2"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    assert time.perf_counter() - started < 10


def test_later_tables_have_rows_of_their_own():
    assert SHARED_HEAD.names == ("list", "count", "crc_head", "crc_low", "radius")
