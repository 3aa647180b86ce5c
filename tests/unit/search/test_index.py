"""Is every damage to an index a typed error that names the key, and can it be mended?"""

import json

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from zarrvec.errors import CorruptError, FormatVersionError
from zarrvec.search import extending, groups
from zarrvec.search.cache import LISTS, ROOTS

pytestmark = pytest.mark.usefixtures("quick_builds")

WIDTH = 6
ALL = 10**6


@pytest.fixture(params=["flat", "grouped"])
def array(request, monkeypatch):
    monkeypatch.setattr(extending, "PENDING_BYTES", 400)
    if request.param == "grouped":
        monkeypatch.setattr(groups, "ROOT_BYTES", 100)
    data = np.random.default_rng(0).standard_normal((60, WIDTH)).astype("f4")
    made = zarr.create_array(MemoryStore(), name="emb", data=data, chunks=(20, WIDTH))
    made.vec.build_index(metric="l2", nlist=4)
    made.vec.append(np.random.default_rng(1).standard_normal((20, WIDTH)))
    made.vec.delete([3, 5])
    return made


def values(array):
    stored = array.store_path.store._store_dict
    return {key: value for key, value in stored.items() if key.startswith("emb.vec/") and "/c/" in key}


def put(array, key, data):
    array.store_path.store._store_dict[key] = default_buffer_prototype().buffer.from_bytes(data)
    ROOTS.clear()
    LISTS.clear()


def search(array):
    return array.vec.search(array[...], 1, nprobe=ALL, rerank=True).ids[:, 0]


DAMAGES = {
    "a bit": lambda data, at: data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :],
    "shorter": lambda data, at: data[:at],
    "longer": lambda data, at: data + bytes(3),
    "empty": lambda data, at: b"",
    "zeros": lambda data, at: bytes(len(data)),
    "missing": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_values(array, damage):
    undamaged = search(array)
    for key, value in values(array).items():
        whole, change = value.to_bytes(), DAMAGES[damage]
        if change is None:
            del array.store_path.store._store_dict[key]
            ROOTS.clear()
            LISTS.clear()
        else:
            put(array, key, change(whole, len(whole) // 3))
        part = key.removeprefix("emb.vec/").partition("/c/0")[0]
        with pytest.raises(CorruptError, match=rf"emb\.vec/{part}.*(?s:build|Build)"):
            search(array)
        put(array, key, whole)
    assert (search(array) == undamaged).all()


@pytest.mark.parametrize("damage", ["a bit", "missing"])
def test_what_is_damaged_is_mended(array, damage):
    keys = [key for key in values(array) if "/entries/" in key or "/lists/" in key]
    for key in keys:
        change = DAMAGES[damage]
        if change is not None:
            put(array, key, change(values(array)[key].to_bytes(), 9))
        else:
            del array.store_path.store._store_dict[key]
    array.vec.build_index(metric="l2", nlist=4)
    assert set(np.flatnonzero(search(array) != np.arange(80))) == {3, 5}


def test_which_rows_were_deleted_is_not_guessed(array):
    (key,) = [key for key in values(array) if key.count("/") == 3]
    put(array, key, bytes(16))
    for call in (lambda: search(array), array.vec.build_index, lambda: array.vec.delete([7])):
        with pytest.raises(CorruptError, match=r"deleted ids.*drop_index.*build_index"):
            call()
    assert array.vec.drop_index()
    array.vec.build_index(metric="l2", nlist=4)
    assert (search(array) == np.arange(80)).all()


@pytest.mark.parametrize("document", [b"", b"[]", b"{", b'{"attributes": {"zarrvec_index": {"format": 1}}}'])
def test_a_damaged_head(array, document):
    put(array, "emb.vec/zarr.json", document)
    calls = (lambda: search(array), array.vec.build_index, array.vec.optimize, array.vec.info)
    for call in calls:
        with pytest.raises(CorruptError, match=r"emb\.vec/zarr\.json.*drop_index"):
            call()
    assert array.vec.drop_index()
    array.vec.build_index(metric="l2", nlist=4)
    assert (search(array) == np.arange(80)).all()


def test_a_newer_format(array):
    document = json.loads(array.store_path.store._store_dict["emb.vec/zarr.json"].to_bytes())
    document["attributes"]["zarrvec_index"]["format"] = 2
    put(array, "emb.vec/zarr.json", json.dumps(document).encode())
    for call in (lambda: search(array), array.vec.build_index, lambda: array.vec.append(np.ones((1, WIDTH)))):
        with pytest.raises(FormatVersionError, match=r"emb\.vec/zarr\.json: format 2.*Install"):
            call()


def test_an_index_copied_from_another_array(array):
    store = array.store_path.store
    for width, dtype in ((WIDTH, "f8"), (WIDTH + 1, "f4")):
        other = zarr.create_array(store, name="other", data=np.ones((60, width), dtype), overwrite=True)
        for key, value in list(store._store_dict.items()):
            if key.startswith("emb.vec/"):
                store._store_dict[key.replace("emb.vec", "other.vec")] = value
        with pytest.raises(ValueError, match=r"other\.vec.*another array.*build_index"):
            other.vec.search(np.ones(width))
