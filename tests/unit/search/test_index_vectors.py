"""Does the code read the vector indexes in ``specs/vectors``, refuse the damaged ones, and write the same bytes?"""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from zarrvec import errors
from zarrvec.search.cache import LISTS, ROOTS
from zarrvec.search.describe import describe
from zarrvec.search.editing import need_head
from zarrvec.search.groups import Grouped
from zarrvec.search.head import Head, Segment
from zarrvec.search.index import open_index, read_deleted
from zarrvec.search.list_table import ListTable, unpack_rows
from zarrvec.search.lists import read_lists
from zarrvec.search.places import Snapshot
from zarrvec.search.records import Entries, Layout
from zarrvec.search.storing import write_lists, write_segment

VECTORS = Path(__file__).parents[3] / "specs" / "vectors"
INDEXES = json.loads((VECTORS / "index.json").read_text())
INVALID = json.loads((VECTORS / "index_invalid.json").read_text())


@pytest.fixture(autouse=True)
def _nothing_held():
    ROOTS.clear()
    LISTS.clear()


class Given:
    """Lists that are in memory."""

    ahead = False

    def __init__(self, lists):
        self._lists = lists

    def write(self, array, counts, layout, progress):
        packed = [layout.pack(entries) for entries in self._lists]
        return write_lists(array, packed, counts, layout, progress=progress)

    def close(self):
        pass


def store_of(index: dict[str, Any]) -> zarr.Array:
    """Put an index beside the array that it is of."""
    held: dict[str, Any] = {}
    store = zarr.storage.MemoryStore(held)
    array = zarr.create_array(store, name="x", data=np.array(index["rows"], "f4"), chunks=(10, 6))
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"zarrvec_index": index["head"]}}
    values = {"zarr.json": json.dumps(document).encode()}
    values |= {key: bytes.fromhex(data) for key, data in index["values"].items()}
    buffer = zarr.core.buffer.default_buffer_prototype().buffer
    held.update({f"x.vec/{key}": buffer.from_bytes(data) for key, data in values.items()})
    return array


def damaged(change: dict[str, Any]) -> dict[str, Any]:
    index: dict[str, Any] = copy.deepcopy(INDEXES[change["of"]])
    if "key" in change:
        index["values"].pop(change["key"])
        if change["data"] is not None:
            index["values"][change["key"]] = change["data"]
    index["values"] |= change.get("also", {})
    if change.get("head") == "":
        index["head"] = change["value"]
    elif "head" in change:
        *path, last = change["head"].split(".")
        place = index["head"]
        for name in path:
            place = place[int(name) if isinstance(place, list) else name]
        place[int(last) if isinstance(place, list) else last] = change["value"]
    return index


def read(array: zarr.Array) -> tuple[Any, Any, list[Any]]:
    """Open an index and read all of its lists."""
    snapshot = Snapshot.of(array)
    index = open_index(snapshot, need_head(snapshot))
    index.centroids.load(snapshot)
    lists = read_lists(snapshot, [(part, np.flatnonzero(part.counts)) for part in index.parts], 8)
    return snapshot, index, lists


@pytest.mark.parametrize("name", INDEXES)
def test_golden_indexes_read_as_their_json_says(name):
    told = INDEXES[name]["holds"]
    snapshot, index, lists = read(store_of(INDEXES[name]))
    assert index.centroids.load(snapshot).compass.vectors.tolist() == told["centroids"]
    assert index.deleted.tolist() == told["deleted"] == read_deleted(snapshot, index.head).tolist()
    assert index.uncovered is None
    for part, found, expected in zip(index.parts, lists, told["segments"], strict=True):
        assert part.counts.tolist() == [each["count"] for each in expected]
        assert sorted(found) == [each["list"] for each in expected if each["count"]]
        for each in expected:
            if each["count"]:
                entries = part.layout.unpack(found[each["list"]].data, each["count"])
                assert part.radii[each["list"]] == np.float32(each["radius"])
                for column in Entries._fields:
                    values = getattr(entries, column)
                    assert (values if values is None else values.tolist()) == each[column]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", INDEXES)
def test_golden_indexes_are_searched(name, bits):
    index = INDEXES[name]
    array = store_of(index)
    rows = np.array(index["rows"], "f4")
    exact = array.vec.search(rows + 0.1, k=5, exact=True)
    found = array.vec.search(rows + 0.1, k=5, nprobe=4, bits=bits, rerank=True)
    np.testing.assert_array_equal(found.ids, exact.ids)
    assert not np.isin(found.ids, index["holds"]["deleted"]).any()
    assert found.stats.lists == 7
    if bits == 8:
        by_codes = array.vec.search(rows + 0.1, k=5, nprobe=4, rerank=False)
        np.testing.assert_allclose(by_codes.distances, exact.distances, atol=0.2)


@pytest.mark.parametrize("name", INVALID)
def test_damaged_indexes_raise_their_error(name):
    change = INVALID[name]
    with pytest.raises(errors.StoredBytesError) as caught:
        read(store_of(damaged(change)))
    assert type(caught.value) is getattr(errors, change["error"])


@pytest.mark.parametrize("name", INDEXES)
def test_what_is_described_is_what_is_stored(name):
    """The first segment, but for what fills up its chunks and what compression of its table saves, and the entries of the others."""
    head, held = Head.decode(INDEXES[name]["head"], name="x"), INDEXES[name]["holds"]
    groups = INDEXES[name]["values"].get(f"{head.segments[0].id}/groups/c/0/0", "")
    entries = sum(each["count"] for segment in held["segments"] for each in segment)
    told = entries * head.layout.entry_bytes + 4 * (28 + 6) + len(groups) // 2
    assert describe(head)["bytes"] == told


@pytest.mark.parametrize("name", INDEXES)
def test_heads_are_written_as_they_were_read(name):
    head = INDEXES[name]["head"]
    assert json.loads(json.dumps(Head.decode(head, name="x").encode())) == head


def grouped(index: Any, data: str) -> Grouped:
    """Return groups without the checksums, which the writer makes."""
    table = ListTable.decode(bytes.fromhex(data), index.head.layout, name="groups")
    table.heads["crc_head"] = 0
    return Grouped(table, index.centroids.seen)


def table_of(segment: Segment, layout: Layout, stored: bytes) -> bytes:
    """Return the rows of a table."""
    if not segment.lists_packed:
        return stored
    return unpack_rows(stored, segment.lists, layout.list_bytes, name="lists").tobytes()


@pytest.mark.parametrize("name", INDEXES)
def test_segments_are_written_as_they_were_read(name):
    values = INDEXES[name]["values"]
    array = store_of(INDEXES[name])
    snapshot, index, lists = read(array)
    again = zarr.storage.MemoryStore()
    group = zarr.create_group(again)
    for part, segment, found in zip(index.parts, index.head.segments, lists, strict=True):
        is_first = part is index.parts[0]
        nothing = np.empty(0, "f4")
        empty = Entries(np.empty(0, "u4"), nothing, nothing, nothing, np.empty((0, 6), "u1"))
        written = write_segment(
            group,
            segment.id,
            Given(
                [
                    part.layout.unpack(found[number].data, int(part.counts[number]))
                    if number in found
                    else empty
                    for number in range(4)
                ]
            ),
            counts=part.counts,
            layout=part.layout,
            rows=segment.rows,
            spread=segment.spread,
            radii=part.radii,
            centroids=index.centroids.load(snapshot).table if is_first else None,
            groups=None if segment.groups is None else grouped(index, values[f"{segment.id}/groups/c/0/0"]),
            origin=index.centroids.origin if is_first else None,
        )
        assert (written.lists_crc32c, written.origin_crc32c, written.entries, written.lists) == (
            segment.lists_crc32c,
            segment.origin_crc32c,
            segment.entries,
            segment.lists,
        )
        if segment.groups is not None:
            assert written.groups is not None
            assert written.groups.crc32c == segment.groups.crc32c
        assert written.lists_packed == (is_first and segment.groups is None)
        key = f"{segment.id}/{'lists' if segment.groups is None else 'groups'}/c/0/0"
        stored = again._store_dict[key].to_bytes()
        if written.lists_packed:
            stored = unpack_rows(stored, 4, part.layout.list_bytes, name=key).tobytes()
        assert stored == table_of(segment, part.layout, bytes.fromhex(values[key]))
