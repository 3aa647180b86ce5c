"""Rechunking on real stores: local files, S3 and plain Zarr, with a vector index beside, in bounded memory."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore, StorePath

import zarrvec
from zarrvec.errors import OptionError, ReadOnlyError


@pytest.fixture
def root(tmp_path):
    return zarr.open_group(f"zarrvec://{tmp_path}/data.zarr", mode="a")


def test_on_s3(s3_bucket):
    options = {"s3": s3_bucket.storage_options}
    url = f"zarrvec::{s3_bucket.url}/data.zarr"
    data = np.arange(6000, dtype="f4").reshape(60, 100)
    group = zarr.open_group(url, mode="a", storage_options=options)
    array = group.create_array("x", data=data, chunks=(60, 1))
    before = zarrvec.history(group)[0].number
    done = zarrvec.rechunk(array, chunks=(1, 100), memory_bytes=16_000)
    assert done.blocks > 2
    again = zarr.open_group(url, mode="r", storage_options=options)["x"]
    assert again.chunks == (1, 100)
    assert np.array_equal(again[...], data)
    assert np.array_equal(zarrvec.at(again, before)[...], data)
    plain = f"{s3_bucket.url}/plain.zarr"
    copied = zarrvec.rechunk(again, plain, chunks=(30, 50), storage_options=s3_bucket.storage_options)
    assert np.array_equal(copied.array[...], data)
    assert zarr.open_array(plain, mode="r", storage_options=s3_bucket.storage_options).chunks == (30, 50)


def test_requests_of_a_small_array(proxied_bucket, s3_proxy):
    """A block and its record in one pack and one commit, then one more commit: the copy is not written twice."""
    options = {"s3": proxied_bucket.storage_options}
    array = zarr.create_array(
        f"zarrvec::{proxied_bucket.url}/data.zarr", shape=(200, 1024), chunks=(1, 1024), dtype="f8",
        storage_options=options,
    )  # fmt: skip
    array[:] = np.random.default_rng(0).random((200, 1024))
    with s3_proxy.counting() as count:
        done = zarrvec.rechunk(array, chunks=(10, 1024))
    assert done.blocks == 1
    assert (count.requests["PUT"], count.requests["DELETE"]) == (3, 0), count.log
    assert count.total_requests <= 10, count.log


RECHUNK = """
import sys, tracemalloc, numpy.ma, zarr, zarrvec
small = zarr.create_array("zarrvec::memory://small", shape=(4, 4), chunks=(2, 2), dtype="f4")
small[:] = 1
zarrvec.rechunk(small, chunks=(4, 1))  # so that all that is imported is there
array = zarr.open_array(sys.argv[1], mode="r+", storage_options={"zarrvec": {"pack_bytes": 1 << 19}})
tracemalloc.start()
done = zarrvec.rechunk(array, chunks=(1000, 100), memory_bytes=int(sys.argv[2]))
print(tracemalloc.get_traced_memory()[1], done.blocks)
"""


def test_memory_is_bounded(tmp_path):
    """In a process of its own: what tests before have left running would be counted too."""
    url = f"zarrvec://{tmp_path}/data.zarr"
    array = zarr.create_array(url, shape=(2000, 4000), chunks=(100, 1000), dtype="f4", compressors=None)
    for row in range(0, 2000, 400):
        array[row : row + 400] = np.random.default_rng(row).random((400, 4000), dtype="f4")
    assert array.nbytes == 32_000_000
    memory = 4 << 20
    command = [sys.executable, "-c", RECHUNK, url, str(memory)]
    peak, blocks = map(int, subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.split())
    assert blocks >= 16
    assert peak < memory + 6 * (1 << 19) + (1 << 20)
    again = zarr.open_array(url, mode="r")
    assert again.chunks == (1000, 100)
    assert np.array_equal(again[400:500], np.random.default_rng(400).random((400, 4000), dtype="f4")[:100])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_text_and_times(root, zarr_format):
    if zarr_format == 3:
        words = root.create_array("words", shape=(7,), chunks=(2,), dtype=str)
        words[:] = np.array([f"word {number}" for number in range(7)], dtype=object)
        done = zarrvec.rechunk(words, chunks=(5,))
        assert done.array[:].tolist() == [f"word {number}" for number in range(7)]
    times = np.arange("2020-01-01", "2020-01-09", dtype="M8[D]").astype("M8[ns]")
    array = zarr.create_array(root.store, name="times", data=times, chunks=(3,), zarr_format=zarr_format)
    done = zarrvec.rechunk(array, chunks=(4,))
    assert np.array_equal(done.array[:], times)


def test_codecs_alone(root):
    data = np.arange(1000, dtype="i4")
    array = root.create_array("x", data=data, chunks=(100,))
    done = zarrvec.rechunk(array, compressors=None)
    assert done.array.compressors == ()
    assert done.array.chunks == (100,)
    with pytest.raises(zarrvec.errors.ConflictError):
        array[0]
    assert np.array_equal(done.array[:], data)
    with_shards = zarrvec.rechunk(done.array, shards=(500,)).array
    assert (with_shards.chunks, with_shards.shards) == ((100,), (500,))
    assert np.array_equal(with_shards[:], data)
    assert zarrvec.rechunk(with_shards, shards=(500,), chunks=(100,)).commit is None


def test_a_plan(root):
    data = np.random.default_rng(0).random((300, 64), dtype="f4")
    array = root.create_array("x", data=data, chunks=(300, 1))
    planned = zarrvec.plan(data.shape, data.dtype, reads=["random rows of 5"], sample=data)
    done = zarrvec.rechunk(array, plan=planned)
    assert done.array.chunks == planned.chunks
    assert np.array_equal(done.array[...], data)
    with pytest.raises(OptionError, match="the plan decides it"):
        zarrvec.rechunk(done.array, plan=planned, chunks=(1, 64))
    with pytest.raises(OptionError, match="is for an array of <i4"):
        zarrvec.rechunk(done.array, plan=zarrvec.plan(data.shape, "i4"))
    for no_plan in (planned.to_json(), {"chunks": (1, 64)}):
        with pytest.raises(OptionError, match=r"expected a Plan, .* or of `Plan.from_json`"):
            zarrvec.rechunk(done.array, plan=no_plan)


@pytest.mark.parametrize("opened_with", [16 << 20, 64 << 10])
@pytest.mark.parametrize("planned", [64 << 10, 8 << 20])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_packs_are_those_of_the_plan(tmp_path, opened_with, planned, elsewhere):
    data = np.random.default_rng(0).integers(0, 256, (256, 4096), dtype="u1")
    options = {"zarrvec": {"pack_bytes": opened_with, "max_staleness": 600}}
    url = f"zarrvec://{tmp_path}/x.zarr"
    array = zarr.create_array(url, data=data, chunks=(256, 16), compressors=None, storage_options=options)
    there = set((tmp_path / "x.zarr").rglob("*.pack"))
    plan = replace(
        zarrvec.plan(data.shape, data.dtype, reads=["one frame"], chunks=(1, 4096)), pack_bytes=planned
    )
    done = zarrvec.rechunk(
        array, f"zarrvec://{tmp_path}/y.zarr" if elsewhere else None, plan, storage_options=options
    )
    assert np.array_equal(done.array[...], data)
    folder = tmp_path / ("y.zarr" if elsewhere else "x.zarr")
    packs = set(folder.rglob("*.pack")) - there
    value = plan.chunks[0] * plan.chunks[1] + 4
    count = -(-data.nbytes // (max(1, planned // value) * (value - 4)))
    assert count <= len(packs) <= count + 1  # one more with the record, or what is left
    assert max(path.stat().st_size for path in packs) <= max(planned, value) + 8192
    done.array[...] = data  # as the store was opened
    largest = max(path.stat().st_size for path in set(folder.rglob("*.pack")) - packs - there)
    assert (largest > 100_000) == (opened_with > 100_000)


def test_searches_stay_right(root):
    draw = np.random.default_rng(0)
    data = draw.normal(size=(600, 16)).astype("f4")
    array = root.create_array("emb", data=data, chunks=(100, 16))
    array.vec.build_index(metric="l2")
    for chunks in [(50, 16), (200, 8)]:  # of the second one grid axis is longer, too
        array = zarrvec.rechunk(array, chunks=chunks).array
        array[3] = data[3] = 9
        for exact in (False, True):
            hits = array.vec.search(data[[3, 500]], k=3, exact=exact, recall=1.0)
            assert hits.ids[:, 0].tolist() == [3, 500]
        assert (
            array.vec.info()["rows_out_of_lists"] == 600
        )  # all are compared one by one until they are put in order
    array.vec.optimize()
    assert array.vec.info()["rows_out_of_lists"] == 0
    assert array.vec.search(data[500], k=1).ids.tolist() == [500]


def test_elsewhere(root, tmp_path):
    data = np.arange(600).reshape(20, 30)
    array = root.create_array("g/x", data=data, chunks=(20, 2), attributes={"unit": "m"})
    there: dict[str, Any] = {
        "plain": LocalStore(tmp_path / "plain.zarr"),
        "memory": MemoryStore(),
        "ours": zarrvec.open_store(f"zarrvec://{tmp_path}/other.zarr"),
        "beside": zarrvec.open_store(f"zarrvec://{tmp_path}/data.zarr"),
    }
    for name, store in there.items():
        place = StorePath(store, "new/y")
        done = zarrvec.rechunk(array, place, chunks=(5, 30))
        assert (done.commit is None) == (name in ("plain", "memory"))
        made = zarr.open_group(store, mode="r")["new/y"]
        assert made.chunks == (5, 30)
        assert made.attrs["unit"] == "m"
        assert np.array_equal(made[...], data)
        with pytest.raises(OptionError, match="there is an array or group already"):
            zarrvec.rechunk(array, place, chunks=(5, 30))
        again = zarrvec.rechunk(array, place, chunks=(4, 15), overwrite=True).array
        assert again.chunks == (4, 15)
        assert np.array_equal(again[...], data)
        with pytest.raises(OptionError, match="is an array, in which none can lie"):
            zarrvec.rechunk(array, StorePath(store, "new/y/z"), chunks=(5, 30))
    assert np.array_equal(array[...], data)


def test_a_source_is_never_deleted_for_its_copy(root, tmp_path):
    data = np.arange(16).reshape(4, 4)
    plain = zarr.create_array(tmp_path / "plain.zarr", name="g/x", data=data, chunks=(2, 2))
    ours = root.create_array("g/x", data=data, chunks=(2, 2))
    for array, store in [(plain, LocalStore(tmp_path / "plain.zarr")), (ours, ours.store_path.store)]:
        for path in ["g", ""] if array is ours else ["g/x", "g", ""]:
            with pytest.raises(OptionError, match=r"the source .* lies in it"):
                zarrvec.rechunk(array, StorePath(store, path), chunks=(4, 1), overwrite=True)
        assert np.array_equal(array[...], data)
    with pytest.raises(OptionError, match="lies in it"):
        zarrvec.rechunk(plain, tmp_path / "plain.zarr" / "g" / "x", chunks=(4, 1), overwrite=True)
    memory = zarr.create_array(MemoryStore(), name="x", data=data, chunks=(2, 2))
    with pytest.raises(OptionError, match="lies in it"):
        zarrvec.rechunk(memory, memory.store_path, chunks=(4, 1), overwrite=True)


def test_of_a_past_version(root, tmp_path):
    array = root.create_array("x", data=np.zeros((4, 4)), chunks=(4, 1))
    number = zarrvec.history(root)[0].number
    array[:] = 1
    old = zarrvec.at(array, number)
    done = zarrvec.rechunk(old, f"zarrvec://{tmp_path}/old.zarr", chunks=(1, 4))
    assert (done.array[...] == 0).all()
    with pytest.raises(ReadOnlyError, match="a past version can't be written"):
        zarrvec.rechunk(old, chunks=(1, 4))
    with pytest.raises(ReadOnlyError, match="opened read-only"):
        zarrvec.rechunk(zarr.open_array(f"zarrvec://{tmp_path}/data.zarr/x", mode="r"), chunks=(1, 4))
    assert zarrvec.rechunk(f"zarrvec://{tmp_path}/data.zarr/x", chunks=(1, 4)).array.chunks == (1, 4)
    by_other_options = StorePath(zarrvec.open_store(f"zarrvec://{tmp_path}/data.zarr", pack_bytes=4096), "x")
    assert zarrvec.rechunk(array, by_other_options, chunks=(2, 2)).array.chunks == (
        2,
        2,
    )  # it is the same array


def test_progress(root):
    array = root.create_array("x", data=np.zeros((4, 4)) + 1, chunks=(4, 1))
    told: list[tuple[str, int, int]] = []
    zarrvec.rechunk(array, chunks=(1, 4), progress=lambda *each: told.append(each))
    assert told[-1] == ("copy", 32, 32)  # read and written
    assert told == sorted(told)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "nothing to change was named"),
    "too few": ({"chunks": (2,)}, "expected 2 positive numbers"),
    "no lengths": ({"chunks": "1"}, "expected lengths"),
    "zero": ({"chunks": (0, 4)}, "at least 1"),
    "floats": ({"chunks": (1.5, 4)}, "expected lengths"),
    "shards": ({"chunks": (2, 2), "shards": (3, 2)}, "can't be stored in chunks"),
    "codec": ({"compressors": "no such"}, "can't be stored"),
    "memory": ({"chunks": (4, 4), "memory_bytes": 100}, "expected at least 512"),
    "no memory": ({"chunks": (4, 4), "memory_bytes": 0}, "expected a number of bytes"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_changes_nothing(root, what):
    options, message = BAD[what]
    array = root.create_array("x", data=np.arange(16.0).reshape(4, 4), chunks=(2, 2))
    before = len(zarrvec.history(root))
    with pytest.raises(OptionError, match=message):
        zarrvec.rechunk(array, **options)
    assert len(zarrvec.history(root)) == before
    assert np.array_equal(array[...], np.arange(16.0).reshape(4, 4))


def test_what_can_not_be_rechunked(root, tmp_path):
    plain = zarr.create_array(tmp_path / "plain.zarr", data=np.arange(4), chunks=(2,))
    with pytest.raises(OptionError, match="on no zarrvec store"):
        zarrvec.rechunk(plain, chunks=(4,))
    with pytest.raises(OptionError, match="expected a zarr array"):
        zarrvec.rechunk(root, chunks=(4,))
    with pytest.raises(OptionError, match="expected a URL"):
        zarrvec.rechunk(plain, 3.5, chunks=(4,))
    with pytest.raises(OptionError, match="without axes"):
        zarrvec.rechunk(root.create_array("scalar", shape=(), dtype="i4"), compressors=None)
    of_format_2 = zarr.create_array(root.store, name="y", data=np.arange(4), chunks=(2,), zarr_format=2)
    with pytest.raises(OptionError, match="of Zarr format 2, which has none"):
        zarrvec.rechunk(of_format_2, shards=(4,))


def test_made_anew_in_other_chunks_meanwhile(root):
    """What was copied of the array before is no part of the one that took its place, not even where that holds nothing."""
    array = root.create_array("x", data=np.ones((40, 4), "f4"), chunks=(10, 4))
    made: list[Any] = []

    def make_anew(stage: str, done: int, total: int) -> None:
        if done == total and not made:
            made.append(root.create_array("x", shape=(40, 4), dtype="f4", chunks=(5, 4), overwrite=True))
            made[0][:5] = 7

    done = zarrvec.rechunk(array, chunks=(20, 4), progress=make_anew)
    assert done.passes == 2
    assert np.array_equal(done.array[:, 0], [7] * 5 + [0] * 35)
