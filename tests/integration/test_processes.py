"""Many processes and threads on one store, on local files and a real S3 server: nothing is lost, nothing is mixed."""

import asyncio
import multiprocessing
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import zarr

import zarrvec
from zarrvec.errors import TransactionError

WRITERS = 8
COMMITS = 25
CHUNK = 64

pytestmark = pytest.mark.timeout(170)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Any) -> tuple[str, dict[str, Any]]:
    if request.param == "local":
        return f"zarrvec://{tmp_path}/data.zarr", {}
    bucket = request.getfixturevalue("s3_bucket")
    return f"zarrvec::{bucket.url}/data.zarr", {"s3": bucket.storage_options}


Place = tuple[str, dict[str, Any]]
ON_S3 = pytest.mark.parametrize("place", ["s3"], indirect=True)
"""Enough where local files are another place only."""


def open_array(place: Place, name: str = "x", mode: Any = "r+", **options: Any) -> zarr.Array:
    storage_options = {**place[1], "zarrvec": options} if options else place[1]
    return zarr.open_array(place[0], path=name, mode=mode, storage_options=storage_options or None)


def create(place: Place, name: str = "x", **arguments: Any) -> zarr.Array:
    root = zarr.open_group(place[0], mode="a", storage_options=place[1] or None)
    arguments = {"shape": (WRITERS * COMMITS, CHUNK), "chunks": (1, CHUNK), "dtype": "i8"} | arguments
    return root.create_array(name, **arguments)


def _guarded(function: Callable[..., Any], queue: Any, arguments: tuple[Any, ...]) -> None:
    try:
        queue.put((True, function(*arguments)))
    except BaseException:
        queue.put((False, traceback.format_exc()))


def in_processes(
    function: Callable[..., Any], calls: list[tuple[Any, ...]], method: str = "spawn"
) -> list[Any]:
    """Call a function once in each of several processes, at the same time."""
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    processes = [context.Process(target=_guarded, args=(function, queue, call)) for call in calls]
    for process in processes:
        process.start()
    try:
        results = [queue.get(timeout=120) for _ in processes]
        for process in processes:
            process.join(20)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    for is_well, result in results:
        assert is_well, result
    return [result for _, result in results]


# -- nothing is lost -------------------------------------------------------------------------------------------------


def write_rows(place: Place, writer: int, commits: int) -> None:
    array = open_array(place)
    for row in range(writer * COMMITS, writer * COMMITS + commits):
        array[row] = row + 1


@pytest.mark.once
def test_processes_lose_nothing(place: Place) -> None:
    array = create(place)
    before = zarrvec.history(array, limit=1)[0].number
    in_processes(write_rows, [(place, writer, COMMITS) for writer in range(WRITERS)])
    array = open_array(place, mode="r")
    assert np.array_equal(array[:], np.repeat(np.arange(1, WRITERS * COMMITS + 1), CHUNK).reshape(-1, CHUNK))
    for row in (0, COMMITS - 1, COMMITS, WRITERS * COMMITS - 1):  # and key by key
        assert array[row].tolist() == [row + 1] * CHUNK
    assert zarrvec.history(array, limit=1)[0].number == before + WRITERS * COMMITS


def test_threads_lose_nothing(place: Place) -> None:
    array = create(place)

    def write(writer: int) -> None:
        for row in range(writer * COMMITS, (writer + 1) * COMMITS):
            array[row] = row + 1

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
    expected = np.repeat(np.arange(1, WRITERS * COMMITS + 1), CHUNK).reshape(-1, CHUNK)
    assert np.array_equal(array[:], expected)
    assert np.array_equal(open_array(place, mode="r")[:], expected)


def write_columns(place: Place, writer: int) -> None:
    array = open_array(place)
    for turn in range(10):
        array[turn, writer * 8 : (writer + 1) * 8] = writer + 1


def test_processes_share_chunks(place: Place) -> None:
    """Each writes its part of every chunk."""
    create(place, shape=(10, CHUNK))
    in_processes(write_columns, [(place, writer) for writer in range(4)])
    expected = np.repeat([1, 2, 3, 4, 0, 0, 0, 0], 8)
    assert open_array(place)[:].tolist() == [expected.tolist()] * 10


def append_rows(place: Place, writer: int, length: int) -> None:
    array = open_array(place)
    for turn in range(8):
        zarrvec.append(array, np.full((length, 4), writer * 100 + turn))


@ON_S3
@pytest.mark.parametrize("length", [5, 3])
def test_processes_append(place: Place, length: int) -> None:
    create(place, shape=(0, 4), chunks=(5, 4))
    in_processes(append_rows, [(place, writer, length) for writer in range(2)])
    rows = open_array(place)[:, 0].tolist()
    assert sorted(rows) == sorted(
        writer * 100 + turn for writer in range(2) for turn in range(8) for _ in range(length)
    )
    runs = [rows[at : at + length] for at in range(0, len(rows), length)]
    assert all(len(set(run)) == 1 for run in runs), "an append was torn"


def make_a_store(place: Place, writer: int, start: float) -> None:
    time.sleep(max(0.0, start - time.time()))
    root = zarr.open_group(place[0], mode="a", storage_options=place[1] or None)
    root.create_array(f"a{writer}", data=np.arange(10) + writer)


def test_processes_make_a_store_at_once(place: Place) -> None:
    in_processes(make_a_store, [(place, writer, time.time() + 3) for writer in range(2)])
    root = zarr.open_group(place[0], mode="r", storage_options=place[1] or None)
    assert sorted(root.array_keys()) == ["a0", "a1"]
    assert [root[f"a{writer}"][0] for writer in range(2)] == [0, 1]


# -- what readers see ------------------------------------------------------------------------------------------------


def read_until(place: Place, queue: Any, staleness: float) -> None:
    array = open_array(place, mode="r", max_staleness=staleness)
    queue.put(int(array[0, 0]))
    seen = 0
    while seen < 5:
        value = int(array[0, 0])
        if value != seen:
            seen = value
            queue.put((value, time.time()))


@pytest.mark.once
@ON_S3
@pytest.mark.parametrize("staleness", [0, 0.5])
def test_a_reader_sees_commits_in_time(place: Place, staleness: float) -> None:
    array = create(place, shape=(1, CHUNK))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    reader = context.Process(target=read_until, args=(place, queue, staleness))
    reader.start()
    try:
        assert queue.get(timeout=60) == 0
        for value in range(1, 6):
            array[:] = value
            landed = time.time()
            seen, when = queue.get(timeout=30)
            assert seen == value
            assert when - landed < staleness + 1.5
        reader.join(20)
    finally:
        if reader.is_alive():
            reader.kill()


def rewrite(place: Place, stop: Any, value: int) -> None:
    array = open_array(place)
    while not stop.is_set():
        value += 1
        array[:] = value


@ON_S3
@pytest.mark.parametrize("shards", [None, (20, 20)])
def test_a_read_never_mixes_versions(place: Place, shards: Any) -> None:
    array = create(place, shape=(40, 40), chunks=(10, 10), shards=shards)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    writer = context.Process(target=rewrite, args=(place, stop, 0))
    writer.start()
    array = open_array(place, mode="r", max_staleness=0)
    try:
        deadline = time.time() + 40
        seen: set[int] = set()
        while len(seen) < 12 and time.time() < deadline:
            values = np.unique(array[:])
            assert len(values) == 1, values
            seen.add(int(values[0]))
    finally:
        stop.set()
        writer.join(20)
        if writer.is_alive():
            writer.kill()
    assert len(seen) >= 12


# -- pickle -----------------------------------------------------------------------------------------------------------


def value_of(store: Any) -> Any:
    array = zarr.open_array(store, path="x", mode="r") if not isinstance(store, zarr.Array) else store
    return int(array[0, 0]), array.shape


def values_of(stores: list[Any]) -> list[Any]:
    return [value_of(store) for store in stores]


def write_through(array: zarr.Array) -> None:
    array[1] = 11


@ON_S3
def test_pickled_stores_and_arrays_work_elsewhere(place: Place) -> None:
    array = create(place, shape=(2, CHUNK))
    array[:] = 1
    store = zarrvec.open_store(place[0], place[1] or None)
    objects = [array, store, pickle.loads(pickle.dumps(array)), array.store]
    assert in_processes(values_of, [(objects,)]) == [[(1, (2, CHUNK))] * 4]
    in_processes(write_through, [(array,)])
    assert open_array(place)[:, 0].tolist() == [1, 11]


@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_a_pickled_array_of_shards(tmp_path: Any, dtype: str) -> None:
    array = zarr.create_array(
        f"zarrvec://{tmp_path}/data.zarr", name="x", shape=(8, 6), chunks=(2, 6), shards=(4, 6), dtype=dtype
    )
    array[:] = 1
    opened = zarr.open_array(f"zarrvec://{tmp_path}/data.zarr", path="x", mode="r+")
    for travelled in pickle.loads(pickle.dumps([array, opened])):
        assert value_of(travelled) == (1, (8, 6))
        array.attrs["note"] = str(travelled)
        travelled[1] = 2
        assert travelled[:3, 0].tolist() == [1, 2, 1]


@ON_S3
def test_a_pinned_store_is_the_same_version_everywhere(place: Place) -> None:
    array = create(place, shape=(2, CHUNK))
    array[:] = 1
    zarrvec.tag(array, "one")
    number = zarrvec.history(array)[0].number
    unread = zarrvec.open_store(place[0], place[1] or None, at="one")
    pinned = [zarrvec.at(array, "one"), zarrvec.at(array, number), unread]
    pickled = [pickle.dumps(item) for item in pinned]
    array[:] = 2
    opened = [pickle.loads(data) for data in pickled]
    assert in_processes(values_of, [(opened,)] * 2) == [[(1, (2, CHUNK))] * 3] * 2
    assert value_of(array)[0] == 2


def test_a_pinned_store_opens_after_its_commit_is_dropped(tmp_path: Any) -> None:
    array = create((f"zarrvec://{tmp_path}/data.zarr", {}), shape=(2, CHUNK))
    array[:] = 1
    number = zarrvec.history(array)[0].number
    data = pickle.dumps(zarrvec.at(array, number))
    array[:] = 2
    commits = sorted((tmp_path / "data.zarr/refs/heads/main").iterdir())
    for path in commits[1:]:
        path.unlink()
    assert value_of(pickle.loads(data))[0] == 1


def test_a_stale_document_conflicts_after_pickling(tmp_path: Any) -> None:
    place = f"zarrvec://{tmp_path}/data.zarr"
    group = zarr.open_group(place, mode="a")
    group.attrs["a"] = 1
    travelled = pickle.loads(pickle.dumps(group))
    group.attrs["b"] = 2
    with pytest.raises(zarrvec.errors.ConflictError):
        travelled.attrs["c"] = 3
    assert dict(zarr.open_group(place, mode="r").attrs) == {"a": 1, "b": 2}


def test_an_open_transaction_is_not_pickled(place: Place) -> None:
    array = create(place, shape=(2, CHUNK))
    with zarrvec.transaction(array) as transaction:
        for item in (transaction, array, array.store, zarrvec.open_store(place[0], place[1] or None)):
            with pytest.raises(TransactionError, match="pickled"):
                pickle.dumps(item)
    pickle.dumps(array)


# -- fork -------------------------------------------------------------------------------------------------------------


def in_a_fork(function: Callable[[], None]) -> None:
    """Run a function in a forked child of this very process, as a data loader does."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        answer = b"ok"
        try:
            function()
        except BaseException:
            answer = traceback.format_exc().encode()
        os.write(writing, answer)
        os._exit(0)
    os.close(writing)
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(os.read(reading, 1 << 16)), daemon=True)
    thread.start()
    thread.join(40)
    if not answers:
        os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.close(reading)
    assert answers == [b"ok"], answers[0].decode() if answers else "the child hangs"


FORKING = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@FORKING
def test_a_forked_child_reads_and_writes(place: Place) -> None:
    array = create(place, shape=(4, CHUNK))
    array[:] = 1
    store = zarrvec.open_store(place[0], place[1] or None)
    assert value_of(store)[0] == 1

    def child() -> None:
        assert array[0, 0] == 1
        array[1] = 2
        assert value_of(store)[0] == 1
        zarr.open_array(store, path="x", mode="r+")[2] = 3
        zarrvec.append(open_array(place), np.full((1, CHUNK), 4))

    in_a_fork(child)
    array[0, 0] = 5  # the parent's own goes on
    assert open_array(place)[:, 0].tolist() == [5, 2, 3, 1, 4]


@FORKING
def test_a_child_forked_in_a_transaction_writes_its_own(place: Place) -> None:
    array = create(place, shape=(4, CHUNK))
    with zarrvec.transaction(array):
        array[0] = 1
        in_a_fork(lambda: put(array, 1, 2))
    assert open_array(place)[:, 0].tolist() == [1, 2, 0, 0]


def put(array: zarr.Array, index: Any, value: Any) -> None:
    array[index] = value


def load(array: zarr.Array, rows: list[int]) -> list[int]:
    values = [int(array[row, 0]) for row in rows]
    for row in rows:
        array[row, 1] = row
    return values


@FORKING
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_workers_read_and_write(place: Place, method: str) -> None:
    """As PyTorch's DataLoader does: the parent has used the array, a pool of workers indexes it."""
    array = create(place, shape=(24, CHUNK))
    array[:] = np.arange(24)[:, None]
    assert array[5, 0] == 5
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        futures = [pool.submit(load, array, list(range(at, at + 4))) for at in range(0, 24, 4)]
        values = [value for future in futures for value in future.result(timeout=90)]
    assert values == list(range(24))
    assert open_array(place)[:, 1].tolist() == list(range(24))


def test_asyncio_and_threads_use_one_store(place: Place) -> None:
    """Every caller may have a loop of its own."""
    store = zarrvec.open_store(place[0], place[1] or None)
    from zarr.core.buffer import default_buffer_prototype

    buffer = default_buffer_prototype().buffer

    async def write(number: int) -> None:
        await asyncio.gather(
            *(store.set(f"k/{number}/{k}", buffer.from_bytes(bytes([number, k]))) for k in range(10))
        )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: asyncio.run(write(number)), range(4)))

    async def read() -> list[bytes]:
        found = [
            await store.get(f"k/{number}/{k}", default_buffer_prototype())
            for number in range(4)
            for k in range(10)
        ]
        return [value.to_bytes() for value in found if value is not None]

    assert asyncio.run(read()) == [bytes([number, k]) for number in range(4) for k in range(10)]
