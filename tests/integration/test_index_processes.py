"""Threads and processes that append, write, delete, optimize and search one index, on local files and a real S3 server."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
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
from zarrvec.errors import ConflictError, SearchError
from zarrvec.search import extending
from zarrvec.testing.proxy import FaultRule

pytestmark = [pytest.mark.timeout(170), pytest.mark.usefixtures("quick_builds")]

WIDTH = 16
ROWS = 400
ALL = 10**6
SECONDS = 2.5
PENDING_BYTES = 8_000

Place = tuple[str, dict[str, Any]]

FAULTS = [
    FaultRule(fault="reset_before", p=0.02, times=None),
    FaultRule(fault="reset_after", method="PUT", p=0.02, times=None),
    FaultRule(fault="conflict", method="PUT", path="/refs/", p=0.02, times=None),
    FaultRule(fault="slowdown", p=0.02, times=None),
    FaultRule(fault="internal", p=0.01, times=None),
    FaultRule(fault="truncate", p=0.01, times=None),
]
also_with_faults = pytest.mark.parametrize("place", ["local", "s3", "faulty"], indirect=True)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Any) -> Place:
    if request.param == "local":
        return f"zarrvec://{tmp_path}/data.zarr", {}
    if request.param == "faulty":
        request.getfixturevalue("s3_proxy").configure(rules=FAULTS)
        bucket = request.getfixturevalue("proxied_bucket")
    else:
        bucket = request.getfixturevalue("s3_bucket")
    return f"zarrvec::{bucket.url}/data.zarr", {"s3": bucket.storage_options}


def open_array(place: Place, **options: Any) -> Any:
    storage_options = {**place[1], "zarrvec": options} if options else place[1]
    return zarr.open_array(place[0], path="emb", mode="r+", storage_options=storage_options or None)


def rows(count: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype("f4")


def create(place: Place) -> Any:
    root = zarr.open_group(place[0], mode="a", storage_options=place[1] or None)
    array = root.create_array("emb", shape=(ROWS, WIDTH), chunks=(64, WIDTH), dtype="f4")
    array[...] = rows(ROWS, 0)
    array.vec.build_index(metric="l2", nlist=8)
    return array


def run(tasks: list[Callable[[], None]]) -> dict[int, int]:
    """Do each task again and again for some seconds, all at once; return how often each was done."""
    end, done = time.monotonic() + SECONDS, dict.fromkeys(range(len(tasks)), 0)
    problems: list[str] = []

    def repeat(number: int) -> None:
        while time.monotonic() < end and not problems:
            try:
                tasks[number]()
                done[number] += 1
            except ConflictError:
                continue
            except BaseException:
                problems.append(traceback.format_exc())

    threads = [threading.Thread(target=repeat, args=(number,)) for number in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems[0]
    return done


def appending(place: Place, seed: int, sent: list[Any]) -> Callable[[], None]:
    array, random = open_array(place), np.random.default_rng(seed)

    def append() -> None:
        new = random.standard_normal((int(random.integers(1, 150)), WIDTH)).astype("f4")
        array.vec.append(new)
        sent.append(new)

    return append


def check_all_found(array: Any, sent: list[Any], deleted: set[int]) -> None:
    """Every row is its own nearest, and every row that was sent is there."""
    data = array[...]
    assert len(data) == ROWS + sum(map(len, sent))
    stored = set(map(bytes, data))
    assert all(bytes(row) in stored for new in sent for row in new)
    for options in ({"nprobe": ALL, "rerank": True}, {"exact": True}):
        ids = array.vec.search(data, 1, metric="l2", **options).ids[:, 0]
        away = set(np.flatnonzero(ids != np.arange(len(data))).tolist())
        assert away == deleted


@pytest.mark.once
@also_with_faults
def test_nothing_is_lost_among_threads(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extending, "PENDING_BYTES", PENDING_BYTES)
    array = create(place)
    sent: list[Any] = []
    searching, optimizing, writing, deleting = (open_array(place, max_staleness=0.0) for _ in range(4))
    random, deleted = np.random.default_rng(9), iter(range(0, ROWS, 3))
    gone: set[int] = set()

    def search() -> None:
        known = sent[:]
        if known:
            hits = searching.vec.search(known[-1][:4], 1, nprobe=ALL, rerank=True)
            assert not hits.distances.round(4).any()

    def optimize() -> None:
        optimizing.vec.optimize()
        time.sleep(0.2)

    def write() -> None:
        start = int(random.integers(0, ROWS - 3))
        writing[start : start + 3] = random.standard_normal((3, WIDTH))
        time.sleep(0.05)

    def delete() -> None:
        row = next(deleted)
        deleting.vec.delete([row])
        gone.add(row)
        time.sleep(0.1)

    done = run(
        [appending(place, 1, sent), appending(place, 2, sent), search, optimize, write, delete],
    )
    assert min(done.values()) > 0
    array = open_array(place)
    check_all_found(array, sent, gone)
    array.vec.optimize()
    info = array.vec.info()
    assert (info["segments"], info["rows_out_of_lists"], info["deleted"]) == (1, 0, len(gone))
    check_all_found(array, sent, gone)


@pytest.mark.once
def test_an_index_is_dropped_and_built_while_others_search_and_append(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extending, "PENDING_BYTES", PENDING_BYTES)
    array = create(place)
    sent: list[Any] = []
    builders, searching = [open_array(place) for _ in range(2)], open_array(place, max_staleness=0.0)

    def search() -> None:
        hits = searching.vec.search(array[:5], 1, metric="l2", nprobe=ALL, rerank=True)
        assert hits.ids[:, 0].tolist() == [0, 1, 2, 3, 4]

    def building(number: int) -> Callable[[], None]:
        def build() -> None:
            builders[number].vec.build_index(metric="l2", nlist=4)
            if number == 0:
                builders[0].vec.drop_index()
            time.sleep(0.2)

        return build

    done = run([appending(place, 1, sent), search, building(0), building(1)])
    assert min(done.values()) > 0
    array = open_array(place)
    array.vec.build_index(metric="l2", nlist=4)
    check_all_found(array, sent, set())


def _append_in_process(place: Place, seed: int) -> int:
    extending.PENDING_BYTES = PENDING_BYTES  # type: ignore[misc]
    array = open_array(place)
    for part in range(6):
        array.vec.append(rows(50, 100 * seed + part))
        if part == seed:
            array.vec.optimize()
    return int(array.vec.search(rows(50, 100 * seed), 1, nprobe=ALL, rerank=True).ids[0, 0])


@pytest.mark.once
@also_with_faults
def test_nothing_is_lost_among_processes(place: Place) -> None:
    create(place)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        first = list(pool.map(_append_in_process, [place] * 3, [1, 2, 3]))
    array = open_array(place)
    sent = [rows(50, 100 * seed + part) for seed in (1, 2, 3) for part in range(6)]
    check_all_found(array, sent, set())
    assert array[first].tolist() == [rows(50, 100 * seed)[0].tolist() for seed in (1, 2, 3)]


def _search_in_process(array: Any, queries: Any) -> Any:
    return array.vec.search(queries, 1, nprobe=ALL, rerank=True).ids[:, 0].tolist()


@pytest.mark.parametrize("place", ["s3"], indirect=True)
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_pinned_array_is_searched_in_other_processes(place: Place, method: str) -> None:
    array = create(place)
    pinned = zarrvec.at(array, zarrvec.history(array)[0].number)
    queries = pinned[:8]
    assert _search_in_process(pinned, queries) == list(range(8))
    array[:8] = 0
    array.vec.append(queries)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        assert list(pool.map(_search_in_process, [pinned] * 2, [queries] * 2)) == [list(range(8))] * 2
        assert (
            list(pool.map(_search_in_process, [array] * 2, [queries] * 2))
            == [list(range(ROWS, ROWS + 8))] * 2
        )


def test_searches_of_many_threads_share_one_handle(place: Place) -> None:
    array = create(place)
    data = array[...]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(
            lambda row: array.vec.search(data[row], 1, nprobe=ALL, rerank=True).ids[0], range(100)
        )
        assert list(found) == list(range(100))


def test_an_index_that_is_dropped_can_not_be_deleted_from(place: Place) -> None:
    array, other = create(place), open_array(place)
    other.vec.drop_index()
    with pytest.raises(SearchError, match="no vector index"):
        array.vec.delete([1])


@pytest.mark.once
def test_a_forked_child_builds_an_index_after_its_parent(tmp_path: Any) -> None:
    code = f"""
        import os, signal, numpy as np, zarr
        root = zarr.open_group("zarrvec://{tmp_path}/data.zarr", mode="a")
        data = np.random.default_rng(0).standard_normal((6000, 64)).astype("f4")
        arrays = [root.create_array(name, data=data, chunks=(1000, 64)) for name in ("a", "b")]
        arrays[0].vec.build_index()  # by the threads of faiss
        child = os.fork()
        if not child:
            signal.alarm(50)  # or it would outlive this test where it waits for ever
            arrays[1].vec.build_index()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert zarr.open_array("zarrvec://{tmp_path}/data.zarr", path="b").vec.info()["rows"] == 6000
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60, env=environment)
