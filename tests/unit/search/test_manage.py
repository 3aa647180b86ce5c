"""Is an index built, changed and dropped so that what is found is always whole, and nobody else's data is touched?"""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore, WrapperStore, ZipStore

import zarrvec
from zarrvec.engine.bridge import run_sync
from zarrvec.errors import OptionError, ReadOnlyError, SearchError
from zarrvec.faces.targets import repository_of
from zarrvec.search import editing, extending
from zarrvec.search.cache import LISTS, ROOTS

pytestmark = pytest.mark.usefixtures("quick_builds")

ALL = 10**6
WIDTH = 6


def rows(count, seed=0, *middle):
    return np.random.default_rng(seed).standard_normal((count, *middle, WIDTH)).astype("f4")


def make(root, data=None, **options) -> Any:
    data = rows(60) if data is None else data
    array = root.create_array(
        "emb", shape=data.shape, chunks=(20, *data.shape[1:]), dtype=data.dtype, **options
    )
    array[...] = data
    return array


@pytest.fixture
def root(tmp_path):
    return zarr.open_group(zarrvec.open_store(f"zarrvec://{tmp_path}/data.zarr"), mode="a")


@pytest.fixture
def elsewhere():
    return zarr.open_group(MemoryStore(), mode="a")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(extending, "PENDING_BYTES", 400)


def nearest(array, queries=None):
    """Return the nearest row of each row, by all lists, as nobody remembers them."""
    ROOTS.clear()
    LISTS.clear()
    data = array[...].reshape(-1, WIDTH) if queries is None else queries
    hits = array.vec.search(data, 1, metric="l2", nprobe=ALL, rerank=True)
    assert hits.stats.nprobe is not None
    return hits.ids[:, 0].tolist()


@pytest.mark.parametrize("change", ["build", "append", "delete", "optimize"])
def test_what_is_written_again_in_the_same_transaction_is_found(root, change):
    array = make(root)
    if change != "build":
        array.vec.build_index(metric="l2", nlist=4)
    with zarrvec.transaction(root):
        array[:10] = 0
        match change:
            case "build":
                array.vec.build_index(metric="l2", nlist=4)
            case "append":
                array.vec.append(rows(30, 1))
            case "delete":
                array.vec.delete([50])
            case "optimize":
                array.vec.optimize()
        array[3] = 7
        assert nearest(array, np.full((1, WIDTH), 7.0)) == [3]
        array[3] = 8
    assert array.vec.search(np.full(WIDTH, 8.0), 1, metric="l2", nprobe=ALL).distances.tolist() == [
        0
    ]  # by what is held
    array[3] = 7
    assert nearest(array, np.full((1, WIDTH), 7.0)) == [3]
    array.vec.optimize()
    assert nearest(array, np.full((1, WIDTH), 7.0)) == [3]
    assert array.vec.info()["rows_out_of_lists"] == 0


@pytest.mark.parametrize("again", ["build_index", "optimize"])
def test_what_an_earlier_build_of_the_same_transaction_covered_is_forgotten(root, again):
    array = make(root)
    with zarrvec.transaction(root):
        array.vec.append(rows(40, 1))
        array.vec.build_index(metric="l2")
        array.resize((60, WIDTH))
        if again == "build_index":
            array.vec.build_index(metric="l2")
        else:
            array.vec.optimize()
    assert nearest(array) == list(range(60))


@pytest.mark.parametrize("change", ["build_index", "optimize"])
def test_what_is_written_during_a_build_in_the_same_transaction_is_found(root, change):
    array = make(root)
    array.vec.build_index(metric="l2")
    array.vec.append(rows(20, 1))
    new = rows(20, 2)
    todo = [new]

    def write_once(*_):
        if todo:
            array[:20] = todo.pop()

    with zarrvec.transaction(root):
        array[20:40] = rows(20, 3)  # in lists as it is in the end
        if change == "build_index":
            array.vec.build_index(metric="l2", progress=write_once)
        else:
            array.vec.optimize(progress=write_once)
    assert not todo
    assert nearest(array, new) == list(range(20))
    assert array.vec.search(new, 1, exact=True).ids[:, 0].tolist() == list(range(20))
    assert array.vec.info()["rows_out_of_lists"] == 20


@pytest.mark.parametrize("change", ["build_index", "optimize"])
@pytest.mark.parametrize("plainly", [False, True])
def test_rows_that_are_appended_during_a_build_get_into_lists(tmp_path, change, plainly, monkeypatch):
    monkeypatch.setattr(extending, "PENDING_BYTES", 30 * WIDTH * 4)
    url = f"zarrvec://{tmp_path}/data.zarr"
    array = make(zarr.open_group(url, mode="a"))
    array.vec.build_index(metric="l2")
    array.vec.append(rows(20, 1))
    todo = [rows(15, 2), rows(20, 3)]

    def append_others(*_):
        while todo:
            other = zarr.open_array(url, path="emb", mode="r+")
            (other if plainly else other.vec).append(todo.pop())
            handles.append(other)

    handles: list[Any] = []
    settings = {"metric": "l2"} if change == "build_index" else {}
    getattr(array.vec, change)(progress=append_others, **settings)
    array = zarr.open_array(url, path="emb", mode="r")
    assert nearest(array) == list(range(115))
    assert array.vec.info()["rows_out_of_lists"] == 0
    handles[-1].append(rows(5, 4))  # nothing was written of the array


@pytest.mark.parametrize("change", ["mv", "copy"])
def test_a_copy_by_the_filesystem_is_not_believed(tmp_path, change):
    group = zarr.open_group(f"zarrvec://{tmp_path}/data.zarr", mode="a").create_group("g")
    with zarrvec.transaction(group):
        array = make(group)
        array.vec.build_index(metric="l2")
    array[:20] = rows(20, 1)
    files, path = fsspec.core.url_to_fs(f"zarrvec://{tmp_path}/data.zarr")
    getattr(files, change)(f"{path}/g", f"{path}/h", recursive=True)
    copied = zarr.open_array(f"zarrvec://{tmp_path}/data.zarr", path="h/emb", mode="r+")
    assert nearest(copied) == list(range(60))
    copied.vec.optimize()
    assert copied.vec.info()["rows_out_of_lists"] == 0
    assert nearest(copied) == list(range(60))


def test_one_transaction_makes_array_and_index(root):
    with zarrvec.transaction(root):
        array = make(root)
        array.vec.build_index(metric="l2", nlist=4)
    assert array.vec.info()["rows_out_of_lists"] == 0
    assert nearest(array) == list(range(60))


def test_a_discarded_transaction_leaves_no_index(root):
    array = make(root)
    with pytest.raises(KeyboardInterrupt), zarrvec.transaction(root):
        array.vec.build_index()
        raise KeyboardInterrupt
    with pytest.raises(SearchError, match="no vector index"):
        array.vec.info()


def test_an_index_dropped_in_the_transaction_that_made_it(root):
    array = make(root)
    with zarrvec.transaction(root):
        array[:10] = 0
        array.vec.build_index()
        array[:10] = 1
        assert array.vec.drop_index()
    assert array.vec.drop_index() is False


def test_deleted_rows_stay_deleted_and_move_with_the_shape(root):
    array = make(root, rows(10, 0, 7))
    array.vec.build_index(metric="l2", nlist=3)
    queries = array[1, 5][None]
    assert nearest(array, queries) == [12]
    assert array.vec.delete([12]) == 1
    assert array.vec.delete([12, 12, 13]) == 1
    assert nearest(array, queries) != [12]
    array.resize((10, 9, WIDTH))
    assert nearest(array, queries) != [14]
    assert array.vec.delete([15, 16]) == 1  # the first of them was 13
    array.vec.build_index(metric="l2", nlist=3)
    assert nearest(array, queries) != [14]
    assert array.vec.info()["deleted"] == 3
    array.vec.drop_index()
    array.vec.build_index(metric="l2", nlist=3)
    assert nearest(array, queries) == [14]


@pytest.mark.parametrize("place", ["root", "elsewhere"])
def test_new_rows_are_not_hidden_by_deleted_ones_that_were_cut_off(place, request):
    array = make(request.getfixturevalue(place))
    array.vec.build_index(metric="l2", nlist=3)
    array.vec.delete([5, 55])
    array.resize((40, WIDTH))
    array.vec.append(np.full((20, WIDTH), 9.0))
    hits = array.vec.search(np.full(WIDTH, 9.0), 20, exact=True, metric="l2")
    assert 55 in hits.ids
    assert array.vec.info()["deleted"] == 1


@pytest.mark.parametrize("place", ["root", "elsewhere"])
def test_what_others_put_there_is_left_alone(place, request):
    root = request.getfixturevalue(place)
    array = make(root)
    group = root.create_group("emb.vec")
    group.create_array("mine", data=np.ones(3))
    with pytest.raises(SearchError, match=r"emb\.vec.*'mine'.*move it"):
        array.vec.build_index()
    with pytest.raises(SearchError, match=r"emb\.vec.*'mine'.*move it"):
        array.vec.drop_index()
    assert group["mine"][:].tolist() == [1, 1, 1]
    del group["mine"]
    array.vec.build_index()
    group.create_array("mine", data=np.ones(3))
    with pytest.raises(SearchError, match=r"emb\.vec.*'mine'.*move it"):
        array.vec.drop_index()
    assert group["mine"][:].tolist() == [1, 1, 1]
    assert array.vec.info()["rows"] == array.shape[0]
    del root["emb.vec"]
    root.create_array("emb.vec", data=np.ones(3))
    for change in (array.vec.build_index, array.vec.drop_index):
        with pytest.raises(SearchError, match=r"emb\.vec.*is an array.*move it"):
            change()
    assert root["emb.vec"][:].tolist() == [1, 1, 1]


def test_read_only(root, tmp_path):
    array = make(root)
    array.vec.build_index()
    number = zarrvec.history(root)[0].number
    array.vec.append(rows(30, 1))
    read_only = zarr.open_group(f"zarrvec://{tmp_path}/data.zarr", mode="r")["emb"]
    for handle in (read_only, zarrvec.at(array, number)):
        calls = [
            handle.vec.build_index,
            handle.vec.optimize,
            handle.vec.drop_index,
            lambda handle=handle: handle.vec.append(rows(1)),
            lambda handle=handle: handle.vec.delete([1]),
        ]
        for call in calls:
            with pytest.raises(ReadOnlyError, match="read-only"):
                call()


def test_each_version_has_its_index(root):
    array = make(root)
    array.vec.build_index(metric="l2", nlist=4)
    zarrvec.tag(root, "first")
    seen = []
    for seed in range(1, 6):
        array.vec.append(rows(25, seed))
        seen.append((zarrvec.history(root)[0].number, array[...], array.vec.info()["segments"]))
    array[7:9] = 1
    array.vec.optimize()
    array.vec.drop_index()
    for number, data, segments in seen:
        old = zarrvec.at(array, number)
        assert nearest(old) == list(range(len(data)))
        assert old.vec.info()["segments"] == segments
        assert nearest(pickle.loads(pickle.dumps(old))) == list(range(len(data)))
    zarrvec.branch(root, "other", at="first")
    store = zarrvec.open_store(
        f"zarrvec://{root.store.repository.place.name}", {"zarrvec": {"branch": "other"}}
    )
    other: Any = zarr.open_group(store, mode="a")["emb"]
    other[3] = 5
    other.vec.append(np.full((30, WIDTH), 8.0))
    assert nearest(other, np.full((1, WIDTH), 5.0)) == [3]
    assert nearest(other, np.full((1, WIDTH), 8.0)) == [60]
    assert zarrvec.at(array, "first").vec.info()["rows_out_of_lists"] == 0


def test_a_revert_brings_an_index_back(root):
    array = make(root)
    array.vec.build_index(metric="l2", nlist=4)
    zarrvec.tag(root, "good")
    array[:] = 1
    array.vec.build_index(metric="l2", nlist=2)
    zarrvec.revert(root, "good")
    array = root["emb"]
    assert nearest(array) == list(range(60))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "hamming"}, "metric='hamming'"),
        ({"metric": ""}, "metric=''"),
        ({"nlist": "3"}, "nlist='3'"),
        ({"bits": 5}, "bits=5"),
        ({"bits": 8.0}, "bits=8.0"),
        ({"nlist": 0}, "nlist=0"),
        ({"nlist": 2.5}, "nlist=2.5"),
        ({"memory_bytes": 5}, "memory_bytes=5"),
        ({"memory_bytes": "1G"}, "memory_bytes='1G'"),
        ({"seed": -1}, "seed=-1"),
        ({"spool": "/nowhere"}, "spool='/nowhere'"),
        ({"spool": 5}, "spool=5"),
        ({"queries": np.empty((0, WIDTH))}, "queries hold none"),
    ],
)
def test_wrong_options_of_a_build(elsewhere, options, message):
    with pytest.raises(OptionError, match=message):
        make(elsewhere).vec.build_index(**options)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_queries_beyond_float32_are_refused_and_lose_nothing(root, metric):
    array = make(root)
    array.vec.build_index(metric="l2")
    queries = rows(30, 1).astype("f8")
    queries[[7, 9]] = 1e20
    with pytest.raises(
        OptionError,
        match="2 of 30 queries are too large for an index, the first is query 7: its largest number is 1e",
    ):
        array.vec.build_index(metric=metric, queries=queries)
    assert nearest(array) == list(range(60))


def test_queries_beyond_float32_have_a_direction(root):
    array = make(root)
    queries = rows(30, 1).astype("f8") * 1e200
    array.vec.build_index(metric="cosine", queries=queries)
    assert array.vec.info()["calibration"]["measured_on"] == "queries"
    array.vec.append(rows(90, 2) + 50)
    assert array.vec.optimize()["action"] == "built anew"
    assert array.vec.info()["calibration"]["measured_on"] == "queries"


def test_options_of_a_build_may_be_small_integers_of_numpy(elsewhere):
    array = make(elsewhere, rows(600))
    small = np.uint8(200)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        info = array.vec.build_index(
            nlist=small, bits=np.uint8(8), seed=small, memory_bytes=np.int32(1 << 30)
        )
    assert info["lists"] == 200


def test_masked_arrays_are_refused(root):
    array = make(root)
    array.vec.build_index(metric="l2", nlist=2)
    with pytest.raises(SearchError, match=r"vectors are a masked array of shape \(1, 6\)"):
        array.vec.append(np.ma.ones((1, WIDTH)))
    with pytest.raises(SearchError, match="masked array"):
        array.vec.delete(np.ma.array([1, 2], mask=[True, False]))
    assert array.shape[0] == 60


@pytest.mark.parametrize("data", [np.empty((0, WIDTH), "f4"), np.full((9, WIDTH), np.nan, "f4")])
def test_nothing_to_index(elsewhere, data):
    with pytest.raises(SearchError, match="no finite row"):
        make(elsewhere, data).vec.build_index()


def clear_alone(root, path):
    """Delete an array and leave its index, as zarrvec did once."""
    run_sync(repository_of(root)[0].write(clears=[path]))


def test_another_array_of_the_same_name(root):
    array = make(root)
    array.vec.build_index(metric="l2", nlist=4)
    clear_alone(root, "emb")
    other = root.create_array("emb", shape=(60, 9), chunks=(20, 9), dtype="f4")
    other[...] = 1
    with pytest.raises(SearchError, match=r"another array: of vectors 6 x float32.*9 x float32.*build_index"):
        other.vec.search(np.ones(9), metric="l2")
    with pytest.raises(SearchError, match="another array"):
        other.vec.optimize()
    assert other.vec.search(np.ones(9), 1, exact=True).ids.tolist() == [0]
    assert other.vec.append(np.ones((2, 9))) == (62, 9)
    other.vec.build_index(metric="l2")
    assert other.vec.search(np.ones(9), 1).ids.tolist() == [0]


@pytest.mark.parametrize("changed", [{"fill_value": 9}, {"chunks": (5, WIDTH)}])
def test_an_array_made_anew_without_writing(root, changed):
    options: Any = {"shape": (60, WIDTH), "chunks": (10, WIDTH), "dtype": "f4", "fill_value": 0}
    array = root.create_array("emb", **options)
    array[:20] = rows(20)
    array.vec.build_index(metric="l2", nlist=4)
    clear_alone(root, "emb")
    array = root.create_array("emb", **{**options, **changed})
    hits = array.vec.search(np.full(WIDTH, array.fill_value), 60, nprobe=ALL)
    assert hits.ids.tolist() == list(range(60))
    assert not hits.distances.any()


class CrashError(Exception):
    """The process ends here."""


class Failing(WrapperStore[Any]):
    """A store that fails from some write on, as if the process had ended."""

    def __init__(self, store):
        super().__init__(store)
        self.left = ALL

    def write(self):
        self.left -= 1
        if self.left < 0:
            raise CrashError

    async def set(self, key, value):
        self.write()
        await self._store.set(key, value)

    async def delete(self, key):
        self.write()
        await self._store.delete(key)

    async def delete_dir(self, prefix):
        for key in [key async for key in self._store.list_prefix(f"{prefix}/")]:
            await self.delete(key)


CHANGES = {
    "first build": lambda array: array.vec.build_index(metric="l2", nlist=4),
    "build": lambda array: array.vec.build_index(metric="l2", nlist=4),
    "delete": lambda array: array.vec.delete([7]),
    "optimize": lambda array: array.vec.optimize(),
    "append": lambda array: array.vec.append(rows(30, 2)),
    "drop": lambda array: array.vec.drop_index(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_crash_at_any_write_elsewhere_leaves_a_whole_index_or_none(change, monkeypatch):
    before = MemoryStore()
    array: Any = make(zarr.open_group(before, mode="a"))
    deleted = set()
    if change != "first build":
        array.vec.build_index(metric="l2", nlist=4)
        array.vec.append(rows(20, 1))
        array.vec.delete([3, 5])
        deleted = {3, 5}
    writes, done = 0, False
    while not done:
        store = Failing(MemoryStore(dict(before._store_dict)))
        array = zarr.open_array(store, path="emb")
        store.left = writes
        try:
            CHANGES[change](array)
            done = True
        except CrashError:
            writes += 2 if change in ("build", "optimize", "drop") else 1
        store.left = ALL
        array = zarr.open_array(store, path="emb")
        there = array[...].any(axis=1)  # an append may have got as far as the shape

        def found(array=array, there=there):
            ROOTS.clear()
            LISTS.clear()
            ids = array.vec.search(array[...], 1, metric="l2", nprobe=ALL, rerank=True).ids[:, 0]
            return {row for row in np.flatnonzero(there).tolist() if ids[row] == row}

        expected = set(np.flatnonzero(there).tolist())
        if change == "delete":
            assert found() - {7} == expected - deleted - {7}
        elif change == "drop":
            assert expected - deleted <= found()
        else:
            assert found() == expected - deleted
        if writes % 5 and not done:
            continue
        monkeypatch.setattr(editing, "ABANDONED_SECONDS", -1)  # else what is left stays for a day
        array.vec.build_index(metric="l2", nlist=4)
        assert expected - deleted - {7} <= found()
        names = {key.split("/")[1] for key in store._store._store_dict if key.startswith("emb.vec/")}
        assert len(names) == 2 + bool(array.vec.info()["deleted"])
    assert writes > 3


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_rows_beyond_float32_are_found(tmp_path, metric):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(300, 8))
    data[7, 0] = 1e25
    array = zarr.create_array(f"zarrvec://{tmp_path}/v.zarr", name="emb", data=data, chunks=(50, 8))
    array.vec.build_index(metric=metric)
    query = np.eye(8)[0]
    for _ in range(2):
        hits = array.vec.search(query * 1e25, k=1)
        assert hits.ids.tolist() == [7]
        array.vec.append(data[:2])
        array.vec.optimize()


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("length", [1e-45, 1e-22, 1e-19, 1e17, 1e18, 3e19, 1e38])
def test_lengths_at_the_ends_of_float32(tmp_path, metric, length):
    """Squares vanish, or distances overflow."""
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(300, 8)) / 8 * length).astype("f4")
    if length > 1e18:
        data[::2] /= length
    array = zarr.create_array(f"zarrvec://{tmp_path}/v.zarr", name="emb", data=data[:250], chunks=(50, 8))
    array.vec.build_index(metric=metric, nlist=5)
    array.vec.append(data[250:])
    for _ in range(2):
        hits = array.vec.search(data[[7, 270]], k=3, nprobe=5)
        assert hits.ids.shape == (2, 3)
        if metric == "cosine" and length > 1e-40:
            assert hits.ids[:, 0].tolist() == [7, 270]
        array.vec.optimize()


def test_rows_beyond_float32_are_refused_where_nothing_tells_of_them():
    data = np.eye(10, 3)
    data[4] = 1e25
    array = zarr.create_array({}, name="emb", data=data)
    with pytest.raises(SearchError, match=r"row 4.*zarrvec store"):
        array.vec.build_index(metric="l2")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("place", ["root", "elsewhere"])
def test_the_byte_order_of_an_array_does_not_matter(place, request, zarr_format):
    store = request.getfixturevalue(place)
    store = getattr(store, "store", store)
    array = zarr.create_array(
        store, name="big", shape=(60, WIDTH), chunks=(20, WIDTH), dtype=">f4", zarr_format=zarr_format
    )
    array[...] = rows(60)
    array.vec.build_index(metric="l2", nlist=3)
    for handle in (array, zarr.open_array(store, path="big")):
        assert handle.vec.search(array[7], 1, nprobe=3).stats.nprobe == 3
        assert handle.vec.search(array[7], 1, nprobe=3).ids.tolist() == [7]
    assert array.vec.append(rows(5, 1)) == (65, WIDTH)
    assert array.vec.search(rows(5, 1), 1, nprobe=3).ids[:, 0].tolist() == [60, 61, 62, 63, 64]


@pytest.mark.parametrize("asked", [{}, {"exact": True}, {"nprobe": 2, "rerank": True}])
def test_searches_while_another_thread_appends_through_the_same_handle(elsewhere, asked):
    array = make(elsewhere)
    array.vec.build_index(metric="l2", nlist=4)

    def append():
        for seed in range(100, 140):
            array.vec.append(rows(3, seed))

    with ThreadPoolExecutor(1) as pool:
        appending = pool.submit(append)
        while not appending.done():
            hits = array.vec.search(array[:5], 1, metric="l2", include=["vectors"], **asked)
            if asked.get("nprobe") is None:
                assert hits.ids[:, 0].tolist() == list(range(5))
        appending.result()
    assert array.shape == (180, WIDTH)


def test_in_a_file_that_deletes_nothing(tmp_path):
    with ZipStore(tmp_path / "data.zip", mode="w") as store, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name that a ZIP file has twice
        array = make(zarr.open_group(store, mode="a"))
        for _ in range(2):
            array.vec.build_index(metric="l2", nlist=4)
            assert nearest(array) == list(range(60))
        array.vec.append(rows(30, 1))
        array.vec.delete([3])
        array.vec.delete([5])
        array.vec.optimize()
        assert [row for row, found in enumerate(nearest(array)) if row != found] == [3, 5]
        with pytest.raises(SearchError, match=r"can't be dropped: .*zip.* deletes nothing"):
            array.vec.drop_index()
        assert array.vec.info()["rows"] == 88
