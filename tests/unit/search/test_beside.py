"""Is the index of an array one and the same, whether the array was opened by its group or as a store of its own?"""

import numpy as np
import pytest
import zarr
from obstore.store import LocalStore as ObstoreLocal
from obstore.store import S3Store
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, WrapperStore

from zarrvec.errors import SearchError
from zarrvec.search import extending
from zarrvec.search.beside import above
from zarrvec.search.places import Snapshot

pytestmark = pytest.mark.usefixtures("quick_builds")

ROWS = np.random.default_rng(0).standard_normal((60, 6)).astype("f4")
OPENED = {
    "local": LocalStore,
    "fsspec": lambda path: FsspecStore.from_url(f"file://{path}", storage_options={"auto_mkdir": True}),
    "obstore": lambda path: ObjectStore(ObstoreLocal(path, mkdir=True)),
    "wrapped": lambda path: WrapperStore(LocalStore(path)),
}


@pytest.fixture(params=OPENED)
def opened(request, tmp_path):
    """Return a function that opens a folder of the same kind of store."""
    return lambda *names: OPENED[request.param](tmp_path.joinpath(*names))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(extending, "PENDING_BYTES", 400)


def check(array):
    hits = array.vec.search(array[...], 1, nprobe=10**6, rerank=True)
    assert hits.stats.nprobe is not None
    assert hits.ids[:, 0].tolist() == list(range(array.shape[0]))
    assert hits.stats.vectors == 0


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("path", ["emb", "deep/emb"])
def test_what_one_handle_changes_the_other_sees(opened, path, zarr_format):
    group = zarr.create_group(opened("data.zarr"), zarr_format=zarr_format)
    by_group = group.create_array(path, data=ROWS, chunks=(20, 6))
    for first in (True, False):
        alone = zarr.open_array(opened("data.zarr", *path.split("/")), mode="r+")
        handles = (by_group, alone) if first else (alone, by_group)
        handles[0].vec.build_index(metric="l2", nlist=3)
        check(handles[1])
        handles[1].vec.append(ROWS[:30] + 1)
        by_group = zarr.open_array(opened("data.zarr"), path=path, mode="r+")
        check(by_group)
        by_group.vec.append(ROWS[30:] + 1)
        alone = zarr.open_array(opened("data.zarr", *path.split("/")), mode="r+")
        check(alone)
        assert alone.vec.delete([7]) == 1
        assert 7 not in by_group.vec.search(ROWS[7], 5).ids
        assert alone.vec.info()["path"].endswith("emb.vec")
        assert alone.vec.drop_index()
        with pytest.raises(SearchError, match="no vector index"):
            by_group.vec.info()
        by_group.resize((60, 6))


def test_an_array_in_no_group_holds_its_index(opened):
    array = zarr.create_array(opened("emb.zarr"), data=ROWS, chunks=(20, 6))
    array.vec.build_index(metric="l2", nlist=3)
    check(zarr.open_array(opened("emb.zarr"), mode="r"))
    assert array.vec.info()["path"] == ".vec"
    zarr.create_group(opened())  # it is in one now, and its index is found as before
    check(zarr.open_array(opened("emb.zarr"), mode="r"))
    zarr.open_array(opened(), path="emb.zarr", mode="r+").vec.build_index(metric="l2", nlist=4)
    assert array.vec.info()["lists"] == 4  # beside counts
    assert array.vec.drop_index()
    assert not array.vec.drop_index()


def test_which_stores_have_one_above(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = above(LocalStore("."))
    assert here is not None
    assert (here.store.root, here.name) == (tmp_path.parent, tmp_path.name)
    bucket = above(ObjectStore(S3Store("bucket", prefix="data.zarr/emb")))
    assert bucket is not None
    assert (bucket.store.store.prefix, bucket.name) == ("data.zarr", "emb")
    for store in (
        LocalStore("/"),
        MemoryStore(),
        FsspecStore.from_url("memory://emb"),
        ObjectStore(S3Store("bucket")),
    ):
        assert above(store) is None


def test_who_may_not_look_above_has_the_index_in_the_array(tmp_path, monkeypatch):
    array = zarr.create_group(tmp_path / "data.zarr").create_array("emb", data=ROWS, chunks=(20, 6))
    alone = zarr.open_array(tmp_path / "data.zarr" / "emb", mode="r+")
    get = LocalStore.get

    async def guarded(self, key, *given, **named):
        if self.root.name == "data.zarr":
            raise PermissionError(key)
        return await get(self, key, *given, **named)

    monkeypatch.setattr(LocalStore, "get", guarded)
    alone.vec.build_index(metric="l2", nlist=3)
    check(alone)
    monkeypatch.undo()
    assert Snapshot.of(array).head() is None


def test_requests(tmp_path):
    zarr.create_group(tmp_path / "data.zarr").create_array("emb", data=ROWS, chunks=(20, 6))
    alone = zarr.open_array(tmp_path / "data.zarr" / "emb", mode="r+")
    snapshot = Snapshot.of(alone)
    assert snapshot.head() is None
    assert (snapshot.stats.requests, snapshot.stats.rounds) == (4, 2)
    alone.vec.build_index(metric="l2", nlist=3)
    snapshot = Snapshot.of(alone)
    assert snapshot.head() is not None
    assert (snapshot.stats.requests, snapshot.stats.rounds) == (2, 1)
    assert snapshot.index_path == "emb.vec"


@pytest.mark.parametrize("through_group", [True, False])
def test_an_index_in_the_array_goes_with_the_one_beside_it(opened, through_group):
    alone = zarr.create_array(opened("data.zarr", "emb"), data=ROWS, chunks=(20, 6))
    alone.vec.build_index(metric="l2", nlist=3)
    alone.vec.delete([5])
    zarr.create_group(opened("data.zarr"))  # it is in one now
    by_group = zarr.open_array(opened("data.zarr"), path="emb", mode="r+")
    if through_group:
        by_group.vec.build_index(metric="l2", nlist=4)
        assert alone.vec.info()["path"] == "emb.vec"
        assert by_group.vec.info()["deleted"] == 1
        assert by_group.vec.search(ROWS[5], 1).ids[0] != 5
        assert Snapshot.of(by_group).inside().head() is None
    assert by_group.vec.drop_index()
    assert Snapshot.of(alone).head() is None
    assert alone.vec.search(ROWS[5], 1, metric="l2").ids[0] == 5
    assert not alone.vec.drop_index()


def test_what_is_no_index_in_the_array_stays(tmp_path):
    array = zarr.create_group(tmp_path / "data.zarr").create_array("emb", data=ROWS, chunks=(20, 6))
    mine = zarr.create_group(LocalStore(tmp_path / "data.zarr" / "emb" / ".vec"), attributes={"mine": 1})
    array.vec.build_index(metric="l2", nlist=3)
    assert dict(zarr.open_group(mine.store, mode="r").attrs) == {"mine": 1}


def test_a_damaged_index_in_the_array_is_dropped_too(tmp_path):
    array = zarr.create_group(tmp_path / "data.zarr").create_array("emb", data=ROWS, chunks=(20, 6))
    inside = tmp_path / "data.zarr" / "emb" / ".vec"
    inside.mkdir()
    (inside / "zarr.json").write_bytes(b"{")
    assert array.vec.drop_index()
    assert not inside.exists()
    assert not array.vec.drop_index()
