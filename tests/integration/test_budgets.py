"""Requests, rounds and bytes against the budgets of the design's section 9, counted by a proxy before a real S3 server."""

import asyncio
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import zarr

import zarrvec
from zarrvec.engine import engine as engines
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.changes import Changes
from zarrvec.engine.verification import verify
from zarrvec.faces.targets import repository_of
from zarrvec.layout.delta import Delta
from zarrvec.types import Entry, PackRef


def forget_engines() -> None:
    """Make the next open a cold one, as in a new process."""
    run_sync(engines.close_engines())


@pytest.fixture
def url(proxied_bucket):
    return f"zarrvec::{proxied_bucket.url}/data.zarr"


@pytest.fixture
def options(proxied_bucket):
    return {"s3": proxied_bucket.storage_options, "zarrvec": {"max_staleness": 60}}


def create(url, options, *, chunks=200, length=1024, name="x", **more):
    root = zarr.open_group(url, mode="a", storage_options=options)
    return root.create_array(
        name, shape=(chunks, length), chunks=(1, length), dtype="f4", compressors=None, **more
    )


def numbers(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype="f4")


def test_cold_open_and_read_a_chunk(url, options, s3_proxy):
    data = numbers((200, 1024))
    create(url, options)[:] = data
    forget_engines()
    with s3_proxy.counting() as count:
        array = zarr.open_array(url, path="x", mode="r", storage_options=options)
        assert np.array_equal(array[7], data[7])
    assert count.total_requests <= 3, "\n".join(f"{r.kind} {r.target} {r.range}" for r in count.log)
    assert count.rounds <= 3, [(r.kind, r.range, r.start, r.end) for r in count.log]
    assert count.requests["LIST"] == 1


def test_write_200_chunks(url, options, s3_proxy):
    array = create(url, options)
    with s3_proxy.counting() as count:
        array[:] = numbers((200, 1024))
    assert count.total_requests <= 2, count.log
    assert count.rounds <= 2


def test_write_200_chunks_over_others(url, options, s3_proxy):
    array = create(url, options)
    for seed in range(4):
        with s3_proxy.counting() as count:
            array[:] = numbers((200, 1024), seed)
        assert count.total_requests <= 2, count.log


def test_a_chunk_written_row_by_row(url, options, s3_proxy):
    """Who fills a chunk row by row, as a recorder does, reads it never: it is known from the write before."""
    data = numbers((8, 1024))
    root = zarr.open_group(url, mode="a", storage_options=options)
    array = root.create_array("x", shape=(8, 1024), chunks=(8, 1024), dtype="f4", compressors=None)
    for row in range(8):
        with s3_proxy.counting() as count:
            array[row] = data[row]
        assert count.total_requests == 2, count.log
        assert not count.requests["GET"], count.log
    assert np.array_equal(array[:], data)
    forget_engines()
    assert np.array_equal(zarr.open_array(url, path="x", mode="r", storage_options=options)[:], data)


def test_a_chunk_written_row_by_row_by_two(url, options, s3_proxy):
    """What another changed meanwhile is read, and not taken from what was written here before."""
    array = create(url, options, chunks=4, length=1024)
    array[0, :512] = 1
    other = {**options, "zarrvec": {"max_staleness": 60, "pack_bytes": 1 << 20}}  # has an engine of its own
    zarr.open_array(url, path="x", mode="r+", storage_options=other)[0, 512:] = 2
    array[0, 256:768] = 3
    assert array[0].tolist() == [1] * 256 + [3] * 512 + [2] * 256
    with zarrvec.transaction(array, message="twice"):
        array[0, :16] = 4
        array[0] = 5
    array[0, 0] = 6
    assert array[0].tolist() == [6] + [5] * 1023


def test_read_200_adjacent_chunks(url, options, s3_proxy):
    data = numbers((200, 1024))
    array = create(url, options)
    array[:] = data
    with s3_proxy.counting() as count:
        assert np.array_equal(array[:], data)
    assert count.total_requests == 1, count.log


def test_read_10000_chunks(url, options, s3_proxy):
    data = numbers((10_000, 1024))
    array = create(url, options, chunks=10_000)
    array[:] = data
    forget_engines()
    array = zarr.open_array(url, path="x", mode="r", storage_options=options)
    array[0]
    s3_proxy.configure(ttfb="50")  # what is asked for side by side overlaps, however busy the machine
    with s3_proxy.counting() as count:
        assert np.array_equal(array[:], data)
    assert count.total_requests <= 8, count.log
    assert count.rounds <= 2


def test_is_there_a_newer_version(url, options, s3_proxy):
    array = create(url, {**options, "zarrvec": {"max_staleness": 0}})
    array[:] = 1
    array[0]
    with s3_proxy.counting() as count:
        repository, _ = repository_of(array)
        run_sync(repository.version())
    assert count.total_requests == 1, count.log


def test_metadata_of_a_1000_array_group(url, options, s3_proxy):
    root = zarr.open_group(url, mode="a", storage_options=options)
    with zarrvec.transaction(root, message="many arrays"):
        for number in range(1000):
            root.create_array(f"a{number}", shape=(8,), chunks=(4,), dtype="f4")
    forget_engines()
    s3_proxy.configure(ttfb="50")
    with s3_proxy.counting() as count:
        root = zarr.open_group(url, mode="r", storage_options=options)
        assert len(dict(root.arrays())) == 1000
    sizes = run_sync(_metadata_bytes(root))
    assert count.total_requests <= 2 + -(-sizes // (256 << 10)), count.log
    assert count.rounds <= 3, [(r.kind, r.range, r.start, r.end) for r in count.log]


async def _metadata_bytes(root) -> int:
    repository, _ = repository_of(root)
    return sum(entry.length + len(key) for key, entry in await repository.list_keys(""))


@pytest.mark.parametrize("index", [False, True])
def test_deleting_an_array_reads_at_most_a_page_of_metadata(url, options, s3_proxy, index):
    root = zarr.open_group(url, mode="a", storage_options=options)
    with zarrvec.transaction(root, message="too many for the commit"):
        for number in range(200):
            root.create_array(f"a{number}", shape=(8, 4), chunks=(4, 4), dtype="f4")
    array = root["a7"]
    array[:] = numbers((8, 4))
    if index:
        array.vec.build_index(metric="l2", nlist=1)
    forget_engines()
    repository, _ = repository_of(root)
    run_sync(repository.version())
    with s3_proxy.counting() as count:
        del root["a7"]
    assert count.total_requests <= 3, count.log  # the page, one that is written anew, the commit
    assert count.requests["GET"] <= 1, count.log
    assert "a7.vec" not in root
    forget_engines()
    root = zarr.open_group(url, mode="a", storage_options=options)
    assert len(dict(root.members())) == 199


@pytest.fixture
def million(url, options):
    """A store of 10^6 chunks, 100 bytes each, made by one commit of entries in packs."""
    array = create(url, options, chunks=1_000_000, length=25)
    repository, _ = repository_of(array)
    pack = os.urandom(12)

    async def fill() -> None:
        engine = await repository.engine()
        entries = {}
        at = 8
        for number in range(1_000_000):
            length = 3000 + number * 7919 % 1000
            entries[f"x/c/{number}/0"] = Entry(0, length, pack, at)
            at += length + 4
        await engine.commit(Changes(delta=Delta(entries), packs=[PackRef(pack, at)]))

    run_sync(fill())
    return array


@pytest.mark.once
def test_one_chunk_of_a_million(url, options, s3_proxy, million):
    repository, _ = repository_of(million)

    async def manifest_bytes() -> int:
        engine = await repository.engine()
        root = await engine.reader.root(await repository.version())
        return sum(page.location.length for page in root.pages)

    assert run_sync(manifest_bytes()) <= 4 * 1_000_000
    forget_engines()
    array = zarr.open_array(url, path="x", mode="r+", storage_options=options)
    row = numbers((2, 25))
    for number in (500_000, 3):
        with s3_proxy.counting() as count:
            array[number] = row[0]
        assert count.total_requests <= 2, count.log
        assert count.bytes_in - 100 <= 64 << 10
    with zarrvec.transaction(array, message="many scattered changes, so that the delta is full"):
        for number in range(0, 1_000_000, 2_000):
            array[number] = row[1]
    for number in range(7, 1_000_000, 90_001):
        with s3_proxy.counting() as count:
            array[number] = row[0]
        assert count.requests["PUT"] <= 2, count.log
        assert count.bytes_in - 100 <= 64 << 10
    forget_engines()
    with s3_proxy.counting() as count:
        array = zarr.open_array(url, path="x", mode="r", storage_options=options)
        assert np.array_equal(array[3], row[0])
    assert count.total_requests <= 4, count.log
    assert count.rounds <= 4


@pytest.mark.once
def test_a_lost_race_costs_two_more(url, options, s3_proxy):
    mine = create(url, options, chunks=4)
    mine[0] = 1
    run_in_a_process(url, options, "array[1] = 2")
    with s3_proxy.counting() as count:
        mine[2] = 3
    assert count.total_requests <= 2 + 2, count.log
    forget_engines()
    array = zarr.open_array(url, path="x", mode="r", storage_options=options)
    assert array[:, 0].tolist() == [1, 2, 3, 0]


@pytest.mark.once
def test_eight_writers_at_once(url, options, s3_proxy):
    s3_proxy.configure(ttfb="20")
    data = numbers((8, 4096))
    array = create(url, options, chunks=8, length=4096)
    array[:] = data * 0 + 1

    async def race() -> None:
        handles = []
        for _ in range(8):  # eight engines: nothing is shared, as between processes
            repository, _ = repository_of(url, options)
            engines._ENGINES.clear()
            engine = await repository.engine()
            await repository.version()
            handles.append((repository, engine))

        async def write(number: int) -> None:
            _, engine = handles[number]
            staging = engine.stage(await engine.current(checked_after=-1))
            await staging.put(f"x/c/{number}/0", data[number].tobytes())
            await engine.commit(staging.changes())

        await asyncio.gather(*(write(number) for number in range(8)))

    averages = []
    for _ in range(5):
        with s3_proxy.counting() as count:
            run_sync(race())
        averages.append((count.total_requests - 8 * 2) / 8)  # opening is not the commit
    assert np.mean(averages) <= 8, averages
    forget_engines()
    assert np.array_equal(zarr.open_array(url, path="x", mode="r", storage_options=options)[:], data)


@pytest.mark.once
def test_verify_lists_each_folder_of_packs_once(url, options, s3_proxy):
    small = {**options, "zarrvec": {**options["zarrvec"], "pack_bytes": 8192}}
    create(url, small, chunks=400)[:] = numbers((400, 1024))
    repository, _ = repository_of(url, options)
    forget_engines()
    engine = run_sync(repository.engine())
    with s3_proxy.counting() as count:
        report = run_sync(verify(engine))
    listed = [
        request.target for request in count.log if request.kind == "LIST" and "%2Fpacks%2F" in request.target
    ]
    assert not report.damages
    assert report.packs > 256
    assert len(listed) == len(set(listed)) > 100


def run_in_a_process(url, options, line) -> None:
    code = f"""
        import zarr
        array = zarr.open_array({url!r}, path="x", mode="r+", storage_options={options!r})
        {line}
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
