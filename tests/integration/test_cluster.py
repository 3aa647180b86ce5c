"""Indexes that are built and arrays that are rechunked by the workers of a dask cluster: two processes, on files and on real S3."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dask
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

import zarrvec
from zarrvec.errors import ClusterError, OptionError, SearchError, TransactionError
from zarrvec.faces.cluster import Cluster

pytestmark = pytest.mark.usefixtures("quick_builds")

WIDTH = 16
ROWS = 6000
MEMORY = 1 << 20
"""Blocks of 2,048 rows: three parts. Not all rows are held."""
KILL = "(os := __import__('os')).kill(os.getpid(), 9)"
Place = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as made:
        yield made


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as made:
        made.wait_for_workers(2, timeout=30)
        yield made


@pytest.fixture
def mortal() -> Iterator[Client]:
    """A client of a cluster of its own, whose workers may be killed.

    dask tries for 30 seconds to reach a worker that is dead, unless it is told otherwise.
    """
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "2s"}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as made,
        Client(made) as client,
    ):
        yield client


@pytest.fixture(params=["local", "local-plain", "s3", "s3-plain"])
def place(request: pytest.FixtureRequest, tmp_path: Any) -> Place:
    kind, _, plain = request.param.partition("-")
    if kind == "local":
        return (str(tmp_path / "plain.zarr") if plain else f"zarrvec://{tmp_path}/data.zarr"), {}
    bucket = request.getfixturevalue("s3_bucket")
    if plain:
        return f"{bucket.url}/plain.zarr", bucket.storage_options
    return f"zarrvec::{bucket.url}/data.zarr", {"s3": bucket.storage_options}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let entries be cut into many chunks, in the midst of lists, so that workers write several ranges."""
    monkeypatch.setattr("zarrvec.search.entries.CHUNK_BYTES", 40_000)
    monkeypatch.setattr("zarrvec.search.entries.SHARD_BYTES", 40_000)
    monkeypatch.setattr("zarrvec.search.entries.INNER_BYTES", 5_000)


def rows(*shape: int) -> Any:
    random = np.random.default_rng(0)
    centres = random.standard_normal((50, WIDTH))
    values = centres[random.integers(0, 50, shape)] + random.standard_normal((*shape, WIDTH)) / 2
    values.reshape(-1, WIDTH)[[3, -1]] = np.nan
    return values


def create(place: Place, data: Any, chunks: tuple[int, ...], name: str = "emb") -> Any:
    root = zarr.open_group(place[0], mode="a", storage_options=place[1] or None)
    return root.create_array(name, data=data, chunks=chunks)


def index_of(array: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what an index says of itself, without names and times, and the values of its arrays."""
    group = zarr.open_group(array.store_path.store, path=f"{array.path}.vec", mode="r")
    head: dict[str, Any] = {**group.attrs["zarrvec_index"]}  # type: ignore[dict-item]
    (segment,) = head.pop("segments")
    name = segment.pop("id")
    values = {key: values[...] for key, values in group[name].arrays()}
    made = {key: value for key, value in head.pop("built").items() if key == "rows"}
    return {**head, "revision": None, "deleted_ids": None, "segment": segment, "built": made}, values


def assert_equal(one: Any, other: Any) -> None:
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert all(np.array_equal(one[1][name], other[1][name]) for name in one[1])


def assert_nothing_is_kept(client: Client) -> None:
    deadline = time.monotonic() + 5  # it hears of it a little later
    while client.who_has() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not client.who_has()


def killing(client: Client, stage: str) -> tuple[Callable[[str, int, int], None], list[int]]:
    """Return a progress function that kills a worker as soon as there is any in a stage, and who was killed."""
    killed: list[int] = []

    def progress(now: str, done: int, total: int) -> None:
        if now == stage and 0 < done < total and not killed:
            killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    return progress, killed


# -- indexes ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
def test_an_index_is_the_same_as_without(place, client):
    array = create(place, rows(ROWS).astype("f4"), (500, WIDTH))
    array.vec.build_index(metric="l2", memory_bytes=MEMORY)
    alone = index_of(array)
    stages = []
    array.vec.build_index(
        metric="l2", memory_bytes=MEMORY, client=client, progress=lambda *now: stages.append(now)
    )
    together = index_of(array)
    assert_equal(alone, together)
    assert len(together[1]["entries"]) > 5 * alone[0]["segment"]["chunk_rows"]
    last = {stage: (done, total) for stage, done, total in stages}
    assert last == {"read": (ROWS, ROWS), "train": (60, 60), "assign": (ROWS, ROWS), "write": (60, 60)}
    assert array.vec.search(array[7], k=1).ids.tolist() == [7]
    assert_nothing_is_kept(client)


@pytest.mark.once
@pytest.mark.parametrize(
    ("metric", "memory", "kind"), [("cosine", MEMORY, "f2"), ("ip", 4 << 20, "f4"), ("l2", 8 << 20, "f8")]
)
def test_of_rows_on_several_axes_held_or_not(tmp_path, client, metric, memory, kind):
    array = create((f"zarrvec://{tmp_path}/data.zarr", {}), rows(300, 20).astype(kind), (40, 10, WIDTH))
    queries = rows(50)[4:40]
    for given in (None, queries):
        options = {"metric": metric, "memory_bytes": memory, "seed": 5, "queries": given}
        array.vec.build_index(**options)
        alone = index_of(array)
        array.vec.build_index(**options, client=client)
        assert_equal(alone, index_of(array))


def test_rows_that_float32_cannot_hold(tmp_path, client):
    data = rows(ROWS)
    data[[5, 4000]] = 1e30
    array = create((f"zarrvec://{tmp_path}/data.zarr", {}), data, (500, WIDTH))
    array.vec.build_index(metric="l2", memory_bytes=MEMORY, client=client)
    assert array.vec.info()["rows"] == ROWS - 4
    assert sorted(array.vec.search(data[5], k=2, metric="l2").ids.tolist()) == [5, 4000]
    data[:] = np.nan
    array[...] = data
    with pytest.raises(SearchError, match="no finite row"):
        array.vec.build_index(client=client)


@pytest.mark.once
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("stage", "url"),
    [
        *((stage, "zarrvec://{}/data.zarr") for stage in ("read", "assign", "write")),
        ("write", "{}/plain.zarr"),
    ],
)
def test_a_worker_that_dies_changes_nothing(tmp_path, mortal, stage, url):
    array = create((url.format(tmp_path), {}), rows(ROWS).astype("f4"), (500, WIDTH))
    array.vec.build_index(memory_bytes=MEMORY)
    alone = index_of(array)
    before = len(zarrvec.history(array)) if url.startswith("zarrvec") else 0
    progress, killed = killing(mortal, stage)
    array.vec.build_index(memory_bytes=MEMORY, client=mortal, progress=progress)
    assert killed
    assert_equal(alone, index_of(array))
    if before:
        assert len(zarrvec.history(array)) == before + 1


@pytest.mark.once
def test_tasks_that_kill_their_workers(mortal):
    with Cluster(mortal) as workers:
        large = workers.share(np.zeros(12 << 20, "u1"))  # dask would warn
        assert workers.all([workers.submit(len, large)]) == [12 << 20]
        mortal.cluster.scheduler.allowed_failures = 1
        with pytest.raises(ClusterError, match=r"the cluster failed: .* workers died"):
            workers.all([workers.submit(len, "abc"), workers.submit(eval, KILL)])


@pytest.mark.once
@pytest.mark.parametrize("stage", ["assign", "write"])
def test_nothing_is_seen_of_half_an_index(tmp_path, client, stage):
    def stop(now: str, done: int, total: int) -> None:
        if now == stage and done:
            raise KeyboardInterrupt

    for url in (f"zarrvec://{tmp_path}/data.zarr", f"{tmp_path}/plain.zarr"):
        array = create((url, {}), rows(ROWS).astype("f4"), (500, WIDTH))
        with pytest.raises(KeyboardInterrupt):
            array.vec.build_index(memory_bytes=MEMORY, client=client, progress=stop)
        with pytest.raises(SearchError, match="has no vector index"):
            array.vec.info()
        if url.startswith("zarrvec"):
            assert list(zarr.open_group(url, mode="r")) == ["emb"]
        array.vec.build_index(memory_bytes=MEMORY, client=client)
        assert array.vec.search(array[7], k=1).ids.tolist() == [7]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("url", ["zarrvec://{}/data.zarr", "{}/plain.zarr"])
def test_others_change_the_index_meanwhile(tmp_path, client, url):
    array = create((url.format(tmp_path), {}), rows(ROWS).astype("f4"), (500, WIDTH))
    array.vec.build_index(memory_bytes=MEMORY)
    alone = index_of(array)
    other = zarr.open_array(url.format(tmp_path), path="emb", mode="r+")
    written = []

    def delete(now: str, done: int, total: int) -> None:
        if now == "write":
            written.append(done)
        if written == [done] and done:
            thread = threading.Thread(target=other.vec.delete, args=([7],))
            thread.start()
            thread.join()

    array.vec.build_index(memory_bytes=MEMORY, client=client, progress=delete)
    assert_equal(alone, index_of(array))
    assert written.count(60) == 1, "lists were written twice"
    assert 7 not in array.vec.search(array[7], k=3).ids
    array[8] = -array[7]
    assert 8 in array.vec.search(-array[7], k=1).ids or url.startswith("{}")


# -- chunks -----------------------------------------------------------------------------------------------------------


def test_rechunked_by_workers(place, client):
    data = np.random.default_rng(0).random((400, 90), dtype="f4")
    data[100:200] = 0
    array = create(place, data, (50, 30), "x")
    to = {"destination": None} if place[0].startswith("zarrvec") else {"destination": f"{place[0]}/y"}
    done = zarrvec.rechunk(
        array, chunks=(40, 45), memory_bytes=64_000, client=client, storage_options=place[1] or None, **to
    )
    assert done.array.chunks == (40, 45)
    assert done.blocks > 4
    assert np.array_equal(done.array[...], data)
    root = zarr.open_group(place[0], mode="r", storage_options=place[1] or None)
    assert set(root.keys()) <= {"x", "y"}
    if to["destination"] is None:
        assert zarrvec.rechunk(done.array, chunks=(40, 45), client=client).commit is None
        assert root["x"].nchunks_initialized < root["x"].nchunks  # nothing is stored of what is empty
        copied = zarrvec.rechunk(
            done.array,
            f"{place[0]}.copy/a/b",
            shards=(80, 90),
            client=client,
            storage_options=place[1] or None,
        )
        assert np.array_equal(copied.array[...], data)
    assert_nothing_is_kept(client)


@pytest.mark.once
def test_a_worker_that_dies_while_it_copies(tmp_path, mortal):
    data = np.random.default_rng(0).random((400, 90), dtype="f4")
    array = create((f"zarrvec://{tmp_path}/data.zarr", {}), data, (50, 30), "x")
    progress, killed = killing(mortal, "copy")
    done = zarrvec.rechunk(array, chunks=(40, 45), memory_bytes=64_000, client=mortal, progress=progress)
    assert killed
    assert np.array_equal(done.array[...], data)


def test_what_others_write_meanwhile_and_a_call_that_ended_early(tmp_path, client):
    data = np.random.default_rng(0).random((400, 90), dtype="f4")
    url = f"zarrvec://{tmp_path}/data.zarr"
    array = create((url, {}), data, (50, 30), "x")
    options = {"chunks": (40, 45), "memory_bytes": 64_000}

    def stop(now: str, done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zarrvec.rechunk(array, **options, client=client, progress=stop)
    assert np.array_equal(array[...], data)
    other = zarr.open_array(url, path="x", mode="r+")
    written: list[int] = []

    def write(now: str, done: int, total: int) -> None:
        if not written:
            written.append(done)
            other[:7] = data[:7] = 5

    done = zarrvec.rechunk(array, **options, client=client, progress=write)
    assert (done.resumed, done.passes) == (True, 2)
    assert 0 < done.blocks < 20
    assert np.array_equal(done.array[...], data)


# -- what can't be ----------------------------------------------------------------------------------------------------


class Unpicklable(zarr.storage.LocalStore):
    def __getstate__(self):
        raise TypeError("it holds a lock")


def test_what_is_no_client(tmp_path, cluster):
    array = create((f"{tmp_path}/plain.zarr", {}), rows(300), (50, WIDTH))
    for wrong in (cluster, "tcp://127.0.0.1:8786", 3):
        with pytest.raises(OptionError, match=r"expected a distributed\.Client"):
            array.vec.build_index(client=wrong)
        with pytest.raises(OptionError, match=r"expected a distributed\.Client"):
            zarrvec.rechunk(array, f"{tmp_path}/y.zarr", chunks=(10, WIDTH), client=wrong)
    with Client(cluster) as client:
        pass
    with pytest.raises(OptionError, match="is closed"):
        array.vec.build_index(client=client)
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        Client(empty) as client,
        pytest.raises(ClusterError, match="has no workers"),
    ):
        array.vec.build_index(client=client)


def test_stores_that_workers_do_not_reach(tmp_path, client, monkeypatch):
    data = rows(300)
    in_memory = zarr.create_array({}, name="emb", data=data)
    by_url = zarr.create_array("zarrvec::memory://cluster.zarr", name="emb", data=data)
    wrapped = zarr.create_array(zarr.storage.LoggingStore(zarr.storage.MemoryStore()), name="emb", data=data)
    for array in (in_memory, by_url, wrapped):
        with pytest.raises(OptionError, match="in the memory of this process"):
            array.vec.build_index(client=client)
    unpicklable = zarr.create_array(Unpicklable(tmp_path / "a.zarr"), name="emb", data=data)
    with pytest.raises(OptionError, match=r"can't be sent to workers \(it holds a lock\)"):
        unpicklable.vec.build_index(client=client)
    there = zarr.create_array(f"{tmp_path}/b.zarr", name="emb", data=data)
    with pytest.raises(OptionError, match="in the memory of this process"):
        zarrvec.rechunk(there, zarr.storage.MemoryStore(), chunks=(10, WIDTH), client=client)
    monkeypatch.chdir(tmp_path)
    client.run(os.chdir, "/")
    relative = zarr.create_array(zarr.storage.LocalStore("c.zarr"), name="emb", data=data)
    with pytest.raises(OptionError, match="does not see what is there"):
        relative.vec.build_index(client=client)
    with pytest.raises(OptionError, match="does not see what is there"):
        zarrvec.rechunk(there, zarr.storage.LocalStore("d.zarr"), chunks=(10, WIDTH), client=client)
    assert not list((tmp_path / "d.zarr").glob("**/*.json"))
    assert pickle.loads(pickle.dumps(there)) == there


def test_in_a_transaction(tmp_path, client):
    array = create((f"zarrvec://{tmp_path}/data.zarr", {}), rows(300), (50, WIDTH))
    with zarrvec.transaction(array):
        array[0] = 1
        with pytest.raises(TransactionError, match="commit first"):
            array.vec.build_index(client=client)
        with pytest.raises(TransactionError, match="call it outside"):
            zarrvec.rechunk(array, chunks=(10, WIDTH), client=client)


WITHOUT_EXTRA = """
import sys
import zarrvec.errors
sys.modules["distributed"] = None
import numpy, zarr
array = zarr.create_array("a.zarr", data=numpy.eye(3, dtype="f4"))
try:
    array.vec.build_index(client=object())
except zarrvec.errors.OptionError as error:
    print(error)
"""


def test_without_the_extra(tmp_path):
    command = [sys.executable, "-c", WITHOUT_EXTRA]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "pip install 'zarrvec[dask]'" in done.stdout
