"""Does ``specs/vector-index.md`` say enough? A reader that shares no code with zarrvec reads the indexes that zarrvec makes."""

import copy
import functools
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import zarrvec
from zarrvec.cli.copying import copy_store, open_source
from zarrvec.search import groups

pytestmark = pytest.mark.usefixtures("quick_builds")

TESTS = Path(__file__).parents[1]


def load(name: str) -> Any:
    """Load a module of the tests by its file, where the one that needs it looks for it too."""
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


store_reader = load("independent_reader")
reader = load("independent_index_reader")
reader.crc32c = functools.lru_cache(10_000)(reader.crc32c)  # each opening checks the same values
INDEXES = json.loads((TESTS.parent / "specs" / "vectors" / "index.json").read_text())
INVALID = json.loads((TESTS.parent / "specs" / "vectors" / "index_invalid.json").read_text())


def opened(path: Path, array: zarr.Array, *, ours: bool) -> Any:
    """Open the index of the array ``x`` of a store on local files."""
    if not ours:

        def get(key: str) -> bytes | None:
            file = path / "x.vec" / key
            return file.read_bytes() if file.is_file() else None

        return reader.Index(get, array.shape, stored_as=stored_as(array))
    store = store_reader.Store(path)
    rows = store.rows(store.commit("main", store.numbers("main")[0]))

    @functools.cache
    def get_value(key: str) -> bytes | None:
        row = rows.get(f"x.vec/{key}")
        return None if row is None else store.value(row)

    def generations(keys: list[str]) -> list[int]:
        *units, own = keys
        full = [*(f"x/{key}" for key in units), f"x.vec/{own}"]
        return [rows[key][1] if key in rows and rows[key][3:] != (None, 0, 0) else 0 for key in full]

    return reader.Index(
        get_value,
        array.shape,
        stored_as=stored_as(array),
        unit=array.shards or array.chunks,
        generations=generations,
    )


def stored_as(array: zarr.Array) -> tuple[list[int], float]:
    """Return what a head says of how the array is stored."""
    return list(array.shards or array.chunks), float(array.fill_value)


def check(path: Path, array: zarr.Array, *, ours: bool, deleted: Any = (), out_of_lists: int = 0) -> Any:
    """Both readers find the nearest rows, of all lists, that numpy finds."""
    index = opened(path, array, ours=ours)
    rows = np.asarray(array[...]).reshape(-1, array.shape[-1])
    queries = rows[:: max(1, len(rows) // 12)] + 0.01
    alive = np.setdiff1d(np.arange(len(rows)), deleted)
    truth = [
        alive[np.argsort(reader.distances(index.head["metric"], query, rows[alive]), kind="stable")[:10]]
        for query in queries.astype("f8")
    ]
    found = index.search(queries, 10, lambda ids: rows[ids])
    ours_found = array.vec.search(queries, k=10, nprobe=index.nlist).ids
    assert int(index.uncovered.sum()) == out_of_lists == array.vec.info()["rows_out_of_lists"]
    for theirs, mine, true in zip(found, ours_found, truth, strict=True):
        assert theirs[0] == mine[0] == true[0]
        assert len(set(theirs) & set(true.tolist())) >= 9  # codes are about 1 % off
        assert len(set(theirs) & set(mine.tolist())) >= 9
    return index


def vectors(count: int, width: int = 256, *, seed: int = 0) -> Any:
    """Rows around some centres, as embeddings are."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(12, width))
    return (centres[random.integers(12, size=count)] + random.normal(size=(count, width))).astype("f4")


@pytest.mark.parametrize("name", INDEXES)
def test_golden_indexes(name):
    told = INDEXES[name]
    document = json.dumps({"attributes": {"zarrvec_index": told["head"]}}).encode()
    values = {"zarr.json": document} | {key: bytes.fromhex(data) for key, data in told["values"].items()}
    rows = np.array(told["rows"], "f4")
    index = reader.Index(values.get, rows.shape)
    assert index.centroids.tolist() == told["holds"]["centroids"]
    assert index.deleted.tolist() == told["holds"]["deleted"]
    for place, expected in enumerate(told["holds"]["segments"]):
        for each in expected:
            if each["count"]:
                ids, scales, errors, norms, codes = index.entries(place, each["list"])
                assert (ids.tolist(), scales.tolist(), errors.tolist()) == (
                    each["ids"],
                    each["scales"],
                    each["errors"],
                )
                assert (norms if norms is None else norms.tolist()) == each["norms"]
                assert codes.tolist() == each["codes"]
                check_bounds(index, place, each, rows)
    queries = rows + 0.1
    alive = np.setdiff1d(np.arange(len(rows)), index.deleted)
    for query, found in zip(queries, index.search(queries, 1, lambda ids: rows[ids]), strict=True):
        away = reader.distances(index.head["metric"], query.astype("f8"), rows[alive])
        assert away[np.searchsorted(alive, found[0])] <= away.min() + 0.1


@pytest.mark.parametrize("name", [name for name in INVALID if name.startswith("group")])
def test_damaged_groups_are_refused(name):
    change = INVALID[name]
    told = copy.deepcopy(INDEXES[change["of"]])
    told["values"] |= {change["key"]: change["data"]} | change.get("also", {})
    if "head" in change:
        told["head"]["segments"][0]["groups"]["crc32c"] = change["value"]
    document = json.dumps({"attributes": {"zarrvec_index": told["head"]}}).encode()
    values = {key: bytes.fromhex(data) for key, data in told["values"].items() if data is not None}
    values["zarr.json"] = document
    with pytest.raises(store_reader.UnreadableError):
        reader.Index(values.get, (len(told["rows"]), 6))


def check_bounds(index: Any, place: int, each: Any, rows: Any) -> None:
    """The stored error and radius are no less than the true ones, the stored norm is that of the decoded row."""
    ids, decoded = index.decoded(place, each["list"])
    stored = rows[ids] - index.origin
    if index.head["metric"] == "cosine":
        stored = reader.unit(rows[ids].astype("f8"))
    assert (np.linalg.norm(stored - decoded, axis=1) <= np.array(each["errors"])).all()
    assert (np.linalg.norm(stored - index.centroids[each["list"]], axis=1) <= each["radius"]).all()
    if each["norms"] is not None:
        np.testing.assert_allclose((decoded**2).sum(axis=1), each["norms"], atol=1e-3)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("ours", [True, False])
def test_build_append_delete_optimize(tmp_path, ours, metric):
    path = tmp_path / "data.zarr"
    root = zarr.open_group(f"zarrvec://{path}" if ours else path, mode="w")
    array = root.create_array("x", data=vectors(1500), chunks=(500, 256))
    array.vec.build_index(metric=metric)
    check(path, array, ours=ours)
    assert array.vec.delete([1, 30, 1400]) == 3
    check(path, array, ours=ours, deleted=[1, 30, 1400])
    array.vec.append(vectors(20, seed=1))
    check(path, array, ours=ours, deleted=[1, 30, 1400], out_of_lists=20)
    array.vec.append(vectors(1200, seed=2))
    index = check(path, array, ours=ours, deleted=[1, 30, 1400])
    assert len(index.segments) == 2
    array.vec.optimize()
    index = check(path, array, ours=ours, deleted=[1, 30, 1400])
    assert len(index.segments) == 1


@pytest.mark.parametrize("ours", [True, False])
def test_lists_in_groups(tmp_path, monkeypatch, ours):
    monkeypatch.setattr(groups, "ROOT_BYTES", 1000)
    path = tmp_path / "data.zarr"
    root = zarr.open_group(f"zarrvec://{path}" if ours else path, mode="w")
    array = root.create_array("x", data=vectors(1500), chunks=(500, 256))
    array.vec.build_index(metric="l2", nlist=40)
    array.vec.append(vectors(1200, seed=2))
    array.vec.delete([1, 1400])
    index = check(path, array, ours=ours, deleted=[1, 1400])
    assert [segment["groups"] is None for segment in index.head["segments"]] == [False, True]
    array.vec.optimize()
    index = check(path, array, ours=ours, deleted=[1, 1400])
    assert [segment["groups"] is None for segment in index.head["segments"]] == [False]


def test_rows_that_changed_are_known(tmp_path):
    path = tmp_path / "data.zarr"
    root = zarr.open_group(f"zarrvec://{path}", mode="w")
    with zarrvec.transaction(root):
        array = root.create_array("x", data=vectors(900), chunks=(100, 256))
        array.vec.build_index(metric="l2")
    check(path, array, ours=True)
    array[150] = vectors(1, seed=3)[0]
    check(path, array, ours=True, out_of_lists=100)
    array.resize((860, 256))
    check(path, array, ours=True, out_of_lists=100)


@pytest.mark.parametrize("from_ours", [True, False])
def test_a_copy_has_other_generations(tmp_path, from_ours):
    """Numbers of the commits of one store must not be taken for those of another."""
    path, url = tmp_path / "data.zarr", f"zarrvec://{tmp_path}/data.zarr"
    root = zarr.open_group(url if from_ours else path, mode="w")

    def fill():
        array = root.create_array("x", data=vectors(300), chunks=(100, 256))
        array.vec.build_index(metric="l2")
        return array

    if from_ours:
        with zarrvec.transaction(root):  # the first commit, as that of the copy will be
            array = fill()
    else:
        array = fill()
    array[150] = 5
    array.vec.search(np.full(256, 5), k=1)  # so that something of it is held
    copied = tmp_path / "copy.zarr"
    copy_store(
        open_source(url if from_ours else str(path), {}),
        zarrvec.open_store(f"zarrvec://{copied}").repository, "", message="copy",
    )  # fmt: skip
    other = zarr.open_array(f"zarrvec://{copied}", path="x", mode="r+")
    check(copied, other, ours=True, out_of_lists=100 if from_ours else 300)
    other[250] = 7
    check(copied, other, ours=True, out_of_lists=200 if from_ours else 300)
    other.vec.optimize()
    check(copied, other, ours=True)
    if from_ours:
        check(path, array, ours=True, out_of_lists=100)  # what is held of one is not taken for the other


def test_a_past_version_made_the_newest_has_other_generations(tmp_path):
    path = tmp_path / "data.zarr"
    root = zarr.open_group(f"zarrvec://{path}", mode="w")
    with zarrvec.transaction(root):
        array = root.create_array("x", data=vectors(300), chunks=(100, 256))
        array.vec.build_index(metric="l2")
    array[150] = 5  # and its list is out of date
    check(path, array, ours=True, out_of_lists=100)
    past = zarrvec.history(root)[0].number
    array.vec.optimize()
    array[160] = 7
    zarrvec.revert(root, past)
    check(path, array, ours=True, out_of_lists=100)
    array[250] = 9
    check(path, array, ours=True, out_of_lists=200)
    zarrvec.revert(root, past)  # the index is as it was, only a unit is not
    check(path, array, ours=True, out_of_lists=100)
    array.vec.optimize()
    check(path, array, ours=True)


def test_leading_axes(tmp_path):
    path = tmp_path / "data.zarr"
    root = zarr.open_group(f"zarrvec://{path}", mode="w")
    data = vectors(1200, 32).reshape(30, 40, 32)
    array = root.create_array("x", data=data, chunks=(8, 16, 16), shards=(8, 16, 32))
    array.vec.build_index(metric="cosine")
    array.vec.delete([41, 1199])
    check(path, array, ours=True, deleted=[41, 1199])
    array[9, 20] = 1
    check(path, array, ours=True, deleted=[41, 1199], out_of_lists=8 * 16)


@pytest.mark.parametrize("at", [0, 1000, -5])
def test_damage_is_seen(tmp_path, at):
    path = tmp_path / "data.zarr"
    array = zarr.open_group(path, mode="w").create_array("x", data=vectors(300, 32), chunks=(100, 32))
    array.vec.build_index(metric="l2")
    (entries,) = path.glob("x.vec/*/entries/c/0/0")
    damaged = bytearray(entries.read_bytes())
    damaged[at] ^= 16
    entries.write_bytes(damaged)
    with pytest.raises(store_reader.UnreadableError):
        opened(path, array, ours=False).search(np.ones((1, 32)), 3, None)
