"""Are requests, bytes and rounds counted for those who asked, in whatever thread or loop?"""

import asyncio
import threading

import numpy as np
import pytest
import zarr

from zarrvec.engine import engine as engines
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.counting import count_requests
from zarrvec.engine.reader import Request
from zarrvec.engine.traffic import Traffic, counting
from zarrvec.faces.targets import repository_of

CHUNKS, LENGTH = 20, 100_000


@pytest.fixture
def array(tmp_path):
    made = zarr.create_array(
        f"zarrvec://{tmp_path}/data.zarr",
        name="x",
        shape=(CHUNKS, LENGTH),
        chunks=(1, LENGTH),
        dtype="u1",
        compressors=None,
    )
    made[:] = np.random.default_rng(0).integers(0, 256, made.shape, dtype="u1")
    return made


def requests(length):
    return [Request(f"x/c/{number}/0", (10, 10 + length)) for number in range(CHUNKS)]


async def read(repository, *, length=50, **options):
    reader = (await repository.engine()).reader
    return await reader.read(await repository.view(), requests(length), **options)


def test_a_page_that_must_be_read_first_is_a_round(tmp_path):
    url = f"zarrvec://{tmp_path}/data.zarr"
    array = zarr.create_array(url, name="x", shape=(6000, 600), chunks=(1, 600), dtype="u1", compressors=None)
    array[:] = 1
    run_sync(engines.close_engines())  # as in a new process
    repository, _ = repository_of(url)
    run_sync(repository.version())
    with counting() as traffic:
        run_sync(repository.read([Request("x/c/5000/0")]))
    assert (traffic.requests, traffic.rounds) == (2, 2)
    with counting() as traffic:
        run_sync(repository.read([Request("x/c/5001/0")]))
    assert (traffic.requests, traffic.rounds) == (1, 1)


def test_a_counter_agrees_with_the_storage(array):
    repository, _ = repository_of(array)
    truth = run_sync(count_requests(repository.place))
    run_sync(repository.version())
    before = truth.copy()
    with counting() as traffic:
        array[3:5]
        run_sync(read(repository, gap=1000))
    since = truth.since(before)
    assert (traffic.requests, traffic.bytes) == (since.get, since.read_bytes)
    run_sync(engines.close_engines())


@pytest.mark.parametrize(("gap", "expected"), [(LENGTH - 50 + 4, 1), (LENGTH - 50 + 3, CHUNKS)])
def test_gaps_up_to_a_length_are_read_over(array, gap, expected):
    repository, _ = repository_of(array)
    with counting() as traffic:
        found = run_sync(read(repository, gap=gap))
    assert traffic.requests == expected
    for number, value in enumerate(found):
        assert value.data == array[number, 10:60].tobytes()


def test_threads_and_tasks_count_their_own(array):
    repository, _ = repository_of(array)
    run_sync(read(repository))
    counted = {}

    def look(length):
        with counting() as traffic:
            run_sync(read(repository, length=length, gap=1000))
        counted[length] = traffic

    threads = [threading.Thread(target=look, args=(length,)) for length in (100, 200, 300)]
    with counting() as mine:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert mine == Traffic()
    for length, traffic in counted.items():
        assert traffic == Traffic(requests=CHUNKS, bytes=CHUNKS * length, rounds=1)

    async def both():
        async def look(length):
            with counting() as traffic:
                await read(repository, length=length, gap=1000)
            return traffic

        return await asyncio.gather(look(100), look(200))

    first, second = run_sync(both())
    assert (first.bytes, second.bytes) == (CHUNKS * 100, CHUNKS * 200)
    first.add(second)
    assert first.rounds == 2
