"""Does an index cover in a copy, or in a past version made the newest one, what it covered, and never more?"""

from typing import Any

import msgspec
import numpy as np
import pytest
import zarr

import zarrvec
from zarrvec.cli.copying import copy_store, open_source
from zarrvec.faces.renumbering import INDEX_ATTRIBUTE, UNCOVERED, Index, indexes_among, with_coverage
from zarrvec.types import Entry

pytestmark = pytest.mark.usefixtures("quick_builds")

ROWS = np.random.default_rng(0).standard_normal((60, 6)).astype("f4")
STORED: list[dict[str, Any]] = [
    {},
    {"shards": (20, 6)},
    {"zarr_format": 2},
    {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    {"chunk_key_encoding": {"name": "default", "separator": "."}},
]


def check(array, out_of_lists):
    assert array.vec.info()["rows_out_of_lists"] == out_of_lists
    hits = array.vec.search(array[...], 1, nprobe=10**6, rerank=True)
    assert hits.ids[:, 0].tolist() == list(range(60))


def copy_of(store, path):
    copied = zarrvec.open_store(f"zarrvec://{path}")
    copy_store(open_source(store.repository.place.root, {}), copied.repository, "")
    return copied


@pytest.mark.parametrize("options", STORED, ids=str)
def test_what_was_covered_is_covered(tmp_path, options):
    store = zarrvec.open_store(f"zarrvec://{tmp_path}/data.zarr")
    array: Any = zarr.create_array(
        store, name="a.b/emb", shape=(60, 6), chunks=(10, 6), dtype="f4", **options
    )
    array[...] = ROWS
    array.vec.build_index(metric="l2", nlist=4)
    unit = (array.shards or array.chunks)[0]
    array[25] = 7
    check(array, unit)
    for again in range(2):
        store = copy_of(store, tmp_path / f"{again}.zarr")
        array = zarr.open_array(store, path="a.b/emb")
        check(array, unit)
    number = zarrvec.history(store)[0].number
    array[45] = 9
    check(array, 2 * unit)
    zarrvec.revert(store, number)
    check(array, unit)
    array[45] = 9
    array.vec.optimize()
    array[5] = 9
    zarrvec.revert(store, number)
    check(array, unit)
    array.vec.optimize()
    check(array, 0)


@pytest.mark.parametrize("by", ["copy", "revert"])
def test_an_index_at_the_root_of_its_store(tmp_path, by):
    store = zarrvec.open_store(f"zarrvec://{tmp_path}/data.zarr")
    array: Any = zarr.create_array(store, data=ROWS, chunks=(10, 6))
    array.vec.build_index(metric="l2", nlist=4)
    if by == "revert":
        number = zarrvec.history(store)[0].number
        array[30:50] = 8
        zarrvec.revert(store, number)
    else:
        array = zarr.open_array(copy_of(store, tmp_path / "copy.zarr"), mode="r+")
    check(array, 0)


def test_units_that_are_not_stored(tmp_path):
    root = zarr.open_group(zarrvec.open_store(f"zarrvec://{tmp_path}/data.zarr"), mode="a")
    array: Any = root.create_array("emb", shape=(60, 6), chunks=(10, 6), dtype="f4")
    array[:30] = ROWS[:30]
    array.vec.build_index(metric="l2", nlist=4)
    number = zarrvec.history(root)[0].number
    array[40:50] = 8
    zarrvec.revert(root, number)
    assert array.vec.info()["rows_out_of_lists"] == 0
    copied: Any = zarr.open_array(copy_of(root.store, tmp_path / "copy.zarr"), path="emb")
    assert copied.vec.info()["rows_out_of_lists"] == 0
    copied[40:50] = 8
    assert copied.vec.info()["rows_out_of_lists"] == 10
    assert copied.vec.search(np.full(6, 8.0), 10, nprobe=10**6).ids.tolist() == list(range(40, 50))


ENTRIES = {
    key: Entry(3, data=b"x") for key in ("a.vec/zarr.json", "a.vec/coverage/c/0", "a/zarr.json", "a/c/0")
}
INDEX = Index("a.vec/zarr.json", "a.vec/coverage/c/0", "a/zarr.json")
ARRAY = {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}}


def told(grid=(2,), coverage=(3, 0), array=ARRAY, **attributes):
    head = {"zarr": 1, "attributes": attributes or {INDEX_ATTRIBUTE: {"grid": grid, "revision": "r"}}}
    documents = (msgspec.json.encode(head), np.array(coverage, "<u8").tobytes(), msgspec.json.encode(array))
    return with_coverage(INDEX, dict(zip(INDEX, documents, strict=True)), ENTRIES, lambda key: key in ENTRIES)


def test_coverage_of_one_commit():
    assert [*indexes_among(ENTRIES)] == [INDEX]
    found = told()
    assert np.frombuffer(found[INDEX.coverage], "<u8").tolist() == [2**64 - 1, 0]
    found = told(coverage=[2**64 - 1, 5])
    assert np.frombuffer(found[INDEX.coverage], "<u8").tolist() == [2**64 - 1, UNCOVERED]


@pytest.mark.parametrize(
    "damage",
    [
        {"grid": []},
        {"grid": [10**9, 10**9]},
        {"grid": "2"},
        {"grid": [None, 2]},
        {"coverage": [3, 0, 0]},
        {"array": []},
        {"array": {}},
        {"array": {"chunk_key_encoding": {"name": "fanout"}}},
    ],
)
def test_what_can_not_be_read_covers_nothing(damage):
    found = told(**damage)
    assert found.keys() == {INDEX.document}
    assert msgspec.json.decode(found[INDEX.document])["attributes"][INDEX_ATTRIBUTE]["grid"] == []


def test_a_group_that_is_no_index():
    found = told(other=1)
    assert msgspec.json.decode(found[INDEX.document])["attributes"] == {"other": 1}
