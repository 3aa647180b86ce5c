"""Does the index of an array go when its folder is deleted, and nothing of anybody else?"""

from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

import zarrvec
from zarrvec.cli.copying import copy_store, open_source
from zarrvec.engine.bridge import run_sync
from zarrvec.faces.folders import delete_folders
from zarrvec.faces.targets import repository_of

pytestmark = pytest.mark.usefixtures("quick_builds")

ROWS = np.random.default_rng(0).standard_normal((60, 6)).astype("f4")
OTHERS = -ROWS[::-1]


@pytest.fixture
def url(tmp_path):
    return f"zarrvec://{tmp_path}/data.zarr"


@pytest.fixture
def group(url):
    group = zarr.open_group(url, mode="a").create_group("g")
    array: Any = group.create_array("emb", data=ROWS, chunks=(20, 6))
    array.vec.build_index(metric="l2", nlist=3)
    array.vec.delete([5])
    return group


def by_files(_, url):
    files, path = fsspec.core.url_to_fs(url)
    files.rm(f"{path}/g/emb", recursive=True)


def by_transaction(group, _):
    with zarrvec.transaction(group):
        del group["emb"]


def by_pack(group, url):
    source = url.removeprefix("zarrvec://") + "-source.zarr"
    zarr.create_array(source, data=ROWS)
    copy_store(open_source(source, {}), repository_of(group)[0], "g/emb", overwrite=True)


def by_rechunk(group, url):
    zarrvec.rechunk(group.create_array("other", data=ROWS), f"{url}/g/emb", chunks=(30, 6), overwrite=True)
    del group["other"]


WAYS: dict[str, Any] = {
    "del": lambda group, _: group.__delitem__("emb"),
    "overwrite": lambda *_: None,
    "transaction": by_transaction,
    "rm": by_files,
    "store of its own": lambda _, url: sync(zarrvec.open_store(f"{url}/g/emb").clear()),
    "pack": by_pack,
    "rechunk": by_rechunk,
}
"""How the folder of an array is deleted."""


@pytest.mark.parametrize("way", WAYS)
def test_an_index_goes_with_its_array(group, url, way):
    before = zarrvec.history(url)[0].number
    WAYS[way](group, url)
    is_there = way in ("overwrite", "pack", "rechunk")
    if not is_there:
        assert zarrvec.history(url)[0].number == before + 1
        assert sorted(zarr.open_group(url, mode="r")["g"]) == []
    array = zarr.open_group(url, mode="a")["g"].create_array(
        "emb", data=OTHERS, chunks=(20, 6), overwrite=is_there
    )
    assert sorted(zarr.open_group(url, mode="r")["g"]) == ["emb"]
    assert array.vec.search(OTHERS, 1, metric="l2").ids[:, 0].tolist() == list(range(60))
    assert array.vec.build_index(metric="l2")["deleted"] == 0


@pytest.mark.parametrize("kind", ["group", "array"])
def test_what_is_no_index_stays(url, kind):
    root = zarr.open_group(url, mode="a")
    root.create_array("emb", data=ROWS, chunks=(20, 6))
    if kind == "group":
        root.create_group("emb.vec", attributes={"mine": 1})
    else:
        root.create_array("emb.vec", data=np.ones(3))
    del root["emb"]
    assert sorted(root) == ["emb.vec"]


def test_an_index_that_came_meanwhile_goes_too(url, monkeypatch):
    """Of an array that is deleted through a handle that has not seen it yet."""
    root: Any = zarr.open_group(url, mode="a", storage_options={"max_staleness": 60})
    root.create_array("emb", data=ROWS, chunks=(20, 6))
    repository, _ = repository_of(root)
    begin = repository.begin

    async def slow():
        staging = await begin()
        monkeypatch.undo()
        await others.write({"emb.vec/zarr.json": b'{"attributes": {"zarrvec_index": {}}}'})
        return staging

    others, _ = repository_of(zarr.open_group(url, mode="a"))
    monkeypatch.setattr(repository, "begin", slow)
    run_sync(delete_folders(repository, ["emb"]))
    assert sorted(zarr.open_group(url, mode="r")) == []


def test_a_group_goes_as_before(group, url):
    root = zarr.open_group(url, mode="a")
    before = zarrvec.history(url)[0].number
    del root["g"]
    assert zarrvec.history(url)[0].number == before + 1
    assert sorted(root) == []
    assert run_sync(repository_of(root)[0].list_keys("g")) == []


def test_what_is_moved_keeps_its_index(group, url):
    files, path = fsspec.core.url_to_fs(url)
    files.mv(f"{path}/g/emb", f"{path}/g/new", recursive=True)
    files.mv(f"{path}/g/emb.vec", f"{path}/g/new.vec", recursive=True)
    array = zarr.open_group(url, mode="r")["g/new"]
    assert array.vec.info()["deleted"] == 1
    assert array.vec.search(ROWS[:5], 1).ids[:, 0].tolist() == list(range(5))
