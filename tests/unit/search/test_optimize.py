"""Does `optimize` merge, split and build anew where it should, say so, and leave every search right?"""

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import zarrvec
from zarrvec.errors import SearchError
from zarrvec.search import extending, optimize

pytestmark = pytest.mark.usefixtures("quick_builds")

ALL = 10**6
WIDTH = 6


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(extending, "PENDING_BYTES", 400)
    monkeypatch.setattr(optimize, "LEAST_MEAN", 4.0)


def rows(count, seed=0, at=0.0, spread=1.0):
    return (at + spread * np.random.default_rng(seed).standard_normal((count, WIDTH))).astype("f4")


@pytest.fixture(params=["ours", "elsewhere"])
def array(request, tmp_path):
    store = (
        zarrvec.open_store(f"zarrvec://{tmp_path}/data.zarr") if request.param == "ours" else MemoryStore()
    )
    made = zarr.create_array(store, name="emb", shape=(400, WIDTH), chunks=(50, WIDTH), dtype="f4")
    made[...] = rows(400)
    made.vec.build_index(metric="l2", nlist=8)
    return made


def found(array):
    hits = array.vec.search(array[...], 1, nprobe=ALL, rerank=True)
    return set(np.flatnonzero(hits.ids[:, 0] == np.arange(len(hits.ids))).tolist())


def test_nothing_to_do(array):
    report = array.vec.optimize()
    assert (report["action"], report["segments"], report["rows"]) == ("none", 1, 400)


def test_segments_become_one(array):
    for seed in range(1, 4):
        array.vec.append(rows(40, seed))
    assert array.vec.info()["segments"] == 4
    array.vec.append(rows(1, 9))
    array.vec.delete([3, 401])
    report = array.vec.optimize()
    assert report["action"] == "merged"
    for reason in ("4 segments", "1 rows in no list", "2 deleted rows"):
        assert reason in report["because"]
    assert {"requests", "bytes_read", "seconds", "entries", "lists"} <= report.keys()
    assert report["rows"] == 519
    info = array.vec.info()
    assert (info["segments"], info["rows_out_of_lists"], info["deleted"]) == (1, 0, 2)
    assert found(array) == set(range(521)) - {3, 401}
    assert array.vec.optimize()["action"] == "none"


def test_lists_that_grew_are_split(array, monkeypatch):
    monkeypatch.setattr(optimize, "OVERGROWN", 2.0)
    monkeypatch.setattr(optimize, "DRIFT", 1e9)
    lists = array.vec.info()["lists"]
    place = array[7]
    array.vec.append(rows(350, 1, at=place, spread=0.1))
    report = array.vec.optimize()
    assert report["action"] == "merged"
    assert report["lists_split"] >= 1
    assert "too long" in report["because"]
    assert report["lists"] > lists
    assert found(array) == set(range(750))
    probed = array.vec.search(rows(50, 1, at=place, spread=0.1), 1, nprobe=2)
    assert (probed.ids[:, 0] == 400 + np.arange(50)).mean() > 0.8


def test_rows_that_are_all_alike_are_not_split_again_and_again(array, monkeypatch):
    monkeypatch.setattr(optimize, "OVERGROWN", 2.0)
    monkeypatch.setattr(optimize, "DRIFT", 1e9)
    array.vec.append(np.full((350, WIDTH), 3.0))
    array.vec.optimize()
    lists = array.vec.info()["lists"]
    assert array.vec.optimize()["action"] == "none"
    assert array.vec.info()["lists"] == lists


@pytest.mark.parametrize("how", ["deleted", "cut off"])
def test_a_list_to_be_split_may_have_lost_all_its_rows(array, how, monkeypatch):
    monkeypatch.setattr(optimize, "OVERGROWN", 2.0)
    monkeypatch.setattr(optimize, "DRIFT", 1e9)
    array.vec.append(rows(350, 1, at=3.0, spread=0.01))
    if how == "deleted":
        array.vec.delete(np.arange(400, 750))
    else:
        array.resize((400, WIDTH))
    assert array.vec.optimize()["action"] == "merged"
    assert found(array) >= set(range(400))


def test_drift_and_growth_build_anew(array):
    array.vec.append(rows(60, 1, at=20))
    report = array.vec.optimize()
    assert report["action"] == "built anew"
    assert "mean squared distance" in report["because"]
    array.vec.append(rows(500, 2))
    report = array.vec.optimize()
    assert report["action"] == "built anew"
    assert "500 rows came to the 460" in report["because"]
    assert found(array) == set(range(960))


def test_rows_cut_off_leave_the_lists(array):
    array.resize((100, WIDTH))
    report = array.vec.optimize()
    assert (report["action"], report["because"], report["rows"]) == ("merged", "rows were cut off", 100)
    array.resize((0, WIDTH))
    assert array.vec.optimize()["rows"] == 0
    assert array.vec.search(np.ones(WIDTH)).ids.size == 0
    array.vec.append(rows(90, 5))
    assert found(array) == set(range(90))


def test_what_it_was_calibrated_on_is_kept():
    array = zarr.create_array(MemoryStore(), data=rows(400), chunks=(50, WIDTH))
    array.vec.build_index(metric="l2", nlist=8, queries=rows(200, 1))
    array.vec.append(rows(500, 2))
    assert array.vec.optimize()["action"] == "built anew"
    assert array.vec.info()["calibration"]["measured_on"] == "queries"
    array.vec.build_index(metric="l2", nlist=8)
    assert array.vec.info()["calibration"]["measured_on"] == "rows"


def test_without_an_index():
    with pytest.raises(SearchError, match="no vector index"):
        zarr.create_array(MemoryStore(), data=rows(4)).vec.optimize()


def test_old_versions_keep_their_index(tmp_path):
    store = zarrvec.open_store(f"zarrvec://{tmp_path}/data.zarr")
    array = zarr.create_array(store, name="emb", data=rows(400), chunks=(50, WIDTH))
    array.vec.build_index(metric="l2", nlist=8)
    array.vec.append(rows(40, 1))
    number = zarrvec.history(array)[0].number
    array.vec.append(rows(40, 2))
    array.vec.optimize()
    old = zarrvec.at(array, number)
    assert old.vec.info()["segments"] == 2
    assert found(old) == set(range(440))
