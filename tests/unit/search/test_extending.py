"""Do appended rows get into the index as they are stored, in segments that don't multiply?"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import zarrvec
from zarrvec.errors import ConflictError, SearchError
from zarrvec.repository import Repository
from zarrvec.search import editing, extending
from zarrvec.search.places import Snapshot

pytestmark = pytest.mark.usefixtures("quick_builds")

ALL = 10**6
WIDTH = 6


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(extending, "PENDING_BYTES", 400)


def rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype("f4")


@pytest.fixture(params=["ours", "elsewhere"])
def store(request, tmp_path):
    return zarrvec.open_store(f"zarrvec://{tmp_path}/data.zarr") if request.param == "ours" else MemoryStore()


def make(store, data):
    array = zarr.create_array(store, name="emb", shape=data.shape, chunks=(50, WIDTH), dtype=data.dtype)
    array[...] = data
    array.vec.build_index(metric="l2", nlist=4)
    return array


def test_few_rows_wait_and_become_a_segment_with_those_that_come(store):
    array = make(store, rows(100))
    array.vec.append(rows(3, 1))
    assert (array.vec.info()["segments"], array.vec.info()["rows_out_of_lists"]) == (1, 3)
    array.append(rows(4, 2))
    array.vec.append(rows(30, 3))
    info = array.vec.info()
    assert (info["segments"], info["rows_out_of_lists"], info["rows"]) == (2, 0, 137)
    hits = array.vec.search(array[...], 1, nprobe=ALL, rerank=True)
    assert hits.ids[:, 0].tolist() == list(range(137))
    assert hits.stats.vectors == 0


def test_segments_are_merged_by_size(store):
    array = make(store, rows(100))
    seen = []
    for seed in range(1, 21):
        array.vec.append(rows(20, seed))
        seen.append(array.vec.info()["segments"])
    assert max(seen) <= 6
    assert array.vec.search(array[...], 1, nprobe=ALL, rerank=True).ids[:, 0].tolist() == list(range(500))


def test_parts_that_no_head_names_any_more_are_gone(store):
    array = make(store, rows(100))

    def parts():
        return {name for name, _ in zarr.open_group(store, path="emb.vec", mode="r").members()}

    ours = hasattr(store, "repository")

    def named():
        head = editing.need_head(Snapshot.of(array))
        return head.parts | {"coverage"} if ours else head.parts

    for seed in range(7):
        array.vec.append(rows(30, seed))
        assert parts() == named()
    assert array.vec.info()["segments"] < 8  # some were merged
    array.vec.delete([3])
    array.vec.delete([4])
    assert parts() == named()
    array.vec.build_index(metric="l2", nlist=4, queries=rows(20))
    assert parts() == named() | {"queries"}
    array.vec.append(rows(30, 8))
    assert parts() == named() | {"queries"}
    array.vec.build_index(metric="l2", nlist=4)
    assert parts() == (
        named() if ours else named() | {"queries"}
    )  # elsewhere another may be about to name them


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("is_old", [False, True])
def test_what_a_transaction_appends_rests_on_the_array_as_it_is_when_it_begins(tmp_path, zarr_format, is_old):
    url = f"zarrvec://{tmp_path}/data.zarr"
    array = zarr.create_array(url, name="emb", data=rows(100), chunks=(40, WIDTH), zarr_format=zarr_format)
    array.vec.build_index(metric="l2")
    other = zarr.open_array(url, path="emb", mode="r+")
    if is_old:
        zarrvec.append(other, rows(5, 1))

    def append_both():
        with zarrvec.transaction(array):
            array.vec.append(rows(50, 2))
            with ThreadPoolExecutor(1) as pool:  # outside of the transaction
                pool.submit(zarrvec.append, other, rows(7, 3)).result()

    with pytest.raises(ConflictError):
        append_both()
    there = 112 if is_old else 107
    assert zarr.open_array(url, path="emb", mode="r").shape == (there, WIDTH)
    assert array.vec.append(rows(50, 2)) == (there + 50, WIDTH)


def test_many_rows_that_waited_go_by_in_blocks(store, monkeypatch):
    monkeypatch.setattr(extending, "BLOCK_BYTES", 1000)
    array = make(store, rows(100))
    array.append(rows(333, 1))
    array.vec.append(rows(20, 2))
    assert array.vec.info()["rows"] == 453
    assert array.vec.search(array[...], 1, nprobe=ALL, rerank=True).ids[:, 0].tolist() == list(range(453))


def test_rows_that_cannot_be_found_make_no_segment(store):
    array = make(store, rows(100))
    array.vec.append(np.full((50, WIDTH), np.nan))
    assert array.vec.info()["segments"] == 1
    assert array.vec.info()["rows_out_of_lists"] == 0
    assert array.vec.search(np.zeros(WIDTH), 200, nprobe=ALL).ids.size == 100
    array.vec.append(rows(50, 1))
    assert array.vec.search(np.zeros(WIDTH), 200, nprobe=ALL).ids.size == 150


def test_the_index_holds_what_is_stored(store):
    array = make(store, np.random.default_rng(0).integers(0, 99, (100, WIDTH), dtype="u1"))
    array.vec.append(np.full((60, WIDTH), 200.9))
    hits = array.vec.search(np.full(WIDTH, 200.0), 1, nprobe=ALL)
    assert hits.ids.tolist() == [100]
    assert hits.distances[0] < 1


def test_rows_with_more_axes(store):
    data = np.random.default_rng(0).standard_normal((9, 8, WIDTH)).astype("f4")
    array = zarr.create_array(store, name="emb", data=data, chunks=(2, 5, WIDTH))
    array.vec.build_index(metric="l2", nlist=4)
    more = np.random.default_rng(1).standard_normal((7, 8, WIDTH))
    assert array.vec.append(more) == (16, 8, WIDTH)
    assert array.vec.info()["segments"] == 2
    hits = array.vec.search(more[3, 2], 1)
    assert [int(at[0]) for at in hits.indices] == [12, 2]


@pytest.mark.parametrize(
    "wrong", [np.ones(WIDTH), np.ones((2, 5)), "text", [[1], [1, 2]], np.full((1, WIDTH), 1j), None]
)
def test_what_is_not_rows(store, wrong):
    array = make(store, rows(20))
    with pytest.raises(SearchError, match="vectors"):
        array.vec.append(wrong)
    assert array.shape == (20, WIDTH)


def test_rows_of_the_shape_that_others_gave_the_array(tmp_path):
    url = f"zarrvec://{tmp_path}/data.zarr"
    array = zarr.create_array(url, name="emb", shape=(5, 4, 6), chunks=(2, 4, 6), dtype="f4")
    zarr.open_array(url, path="emb", mode="r+").resize((5, 7, 6))
    assert array.vec.append(np.ones((1, 7, 6), "f4")) == (6, 7, 6)


def test_no_rows(store):
    array = make(store, rows(20))
    assert array.vec.append(np.empty((0, WIDTH))) == (20, WIDTH)


def test_an_index_that_others_change_all_the_time(monkeypatch):
    store = MemoryStore()
    array = make(store, rows(100))
    array.vec.delete(range(95, 100))
    array.resize((95, WIDTH))
    others, change = iter(range(95)), extending._change

    def change_after_another(now, *given):
        zarr.open_array(store, path="emb").vec.delete([next(others)])
        change(now, *given)

    monkeypatch.setattr(extending, "REDO_LIMIT", 3)
    monkeypatch.setattr(extending, "_change", change_after_another)
    with pytest.raises(ConflictError, match=r"rows from 95 on were appended, .* changed its index 3 times"):
        array.vec.append(rows(30, 1))
    assert array.shape == (125, WIDTH)
    array.vec.drop_index()
    array.vec.build_index(metric="l2", nlist=4)
    assert array.vec.search(array[95:], 1, nprobe=ALL, rerank=True).ids[:, 0].tolist() == list(range(95, 125))


@pytest.mark.parametrize("append", [zarrvec.append, lambda array, new: array.vec.append(new)])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_an_append_that_fails_leaves_the_handle_as_it_was(tmp_path, monkeypatch, append, kind):
    array = make(zarrvec.open_store(f"zarrvec://{tmp_path}/data.zarr"), rows(100))

    def fail(*given, **named):
        raise kind

    with monkeypatch.context() as patch:
        patch.setattr(Repository, "commit", fail)
        with pytest.raises(kind):
            append(array, rows(30, 1))
    assert array.shape == array[...].shape == (100, WIDTH)
    assert append(array, rows(30, 1)) == array.shape == (130, WIDTH)
    assert array.vec.search(array[...], 1, nprobe=ALL, rerank=True).ids[:, 0].tolist() == list(range(130))
