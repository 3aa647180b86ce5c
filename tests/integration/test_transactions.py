"""Many calls, one commit: visible inside at once, outside only at the end, and larger than memory."""

import asyncio
import contextlib
import datetime as dt
import gc
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr

import zarrvec
from zarrvec.engine import engine, heads
from zarrvec.engine.bridge import run_sync
from zarrvec.errors import ConflictError, OptionError, RefNotFoundError, TransactionError
from zarrvec.faces.targets import repository_of


@pytest.fixture
def url(tmp_path):
    return f"zarrvec://{tmp_path}/data.zarr"


@pytest.fixture
def root(url):
    return zarr.open_group(url, mode="a", storage_options={"zarrvec": {"max_staleness": 0}})


def test_one_commit_and_own_writes_are_seen(root, url):
    before = len(zarrvec.history(root))
    with zarrvec.transaction(root, message="import", author="ann") as transaction:
        a = root.create_array("a", data=np.arange(10), chunks=(3,))
        a[2:5] = -1
        root.attrs["done"] = True
        assert root["a"][:].tolist() == [0, 1, -1, -1, -1, 5, 6, 7, 8, 9]
        assert sorted(root.keys()) == ["a"]
        a.resize((4,))
        del root["a"]
        root.create_array("b", data=np.array([1.5]))
        assert sorted(root.keys()) == ["b"]
    newest, *older = zarrvec.history(root)
    assert len(older) == before
    assert (newest.message, newest.author, newest.automatic) == ("import", "ann", False)
    assert newest.number == transaction.number
    assert sorted(zarr.open_group(url, mode="r").keys()) == ["b"]


def test_an_exception_discards(root, url):
    root.create_array("a", data=np.array([1, 2, 3]))
    before = zarrvec.history(root)
    with pytest.raises(ZeroDivisionError), zarrvec.transaction(root):
        root["a"][:] = 9
        raise ZeroDivisionError
    assert zarrvec.history(root) == before
    assert root["a"][:].tolist() == [1, 2, 3]


def test_an_empty_transaction_makes_no_commit(root):
    before = zarrvec.history(root)
    with zarrvec.transaction(root, message="nothing"):
        assert list(root.keys()) == []
    assert zarrvec.history(root) == before


def test_other_threads_stay_outside(root):
    root.create_array("a", data=np.array([1, 2, 3]), chunks=(1,))
    seen = {}

    def other():
        seen["before"] = root["a"][:].tolist()
        root["a"][2] = 30

    with zarrvec.transaction(root):
        root["a"][0] = 10
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert root["a"][:].tolist() == [10, 2, 3]
    assert seen["before"] == [1, 2, 3]
    assert root["a"][:].tolist() == [10, 2, 30]


def test_it_reads_one_version(root, url):
    root.create_array("a", data=np.array([1, 2]), chunks=(1,))
    outside = zarr.open_group(url, mode="r+")
    with zarrvec.transaction(root):
        assert root["a"][0] == 1
        thread = threading.Thread(target=lambda: outside["a"].__setitem__(0, 5))
        thread.start()
        thread.join()
        assert root["a"][0] == 1
        root["a"][1] = 7
    assert root["a"][:].tolist() == [5, 7]


def test_what_was_read_and_changed_by_others_conflicts(root, url):
    root.create_array("a", data=np.array([1, 2]), chunks=(2,))
    with pytest.raises(ConflictError, match="a/c/0") as caught, zarrvec.transaction(root):
        root["a"][0] = 10
        thread = threading.Thread(target=lambda: zarr.open_group(url)["a"].__setitem__(1, 5))
        thread.start()
        thread.join()
    assert caught.value.keys == ("a/c/0",)
    assert root["a"][:].tolist() == [1, 5]


@contextlib.contextmanager
def another_process():
    """Forget what this process knows of stores, and remember it afterwards."""
    known = dict(engine._ENGINES)
    engine._ENGINES.clear()
    yield
    engine._ENGINES.clear()
    engine._ENGINES.update(known)


def test_an_append_that_hoped_to_be_alone_is_done_again(root, url, monkeypatch):
    monkeypatch.setattr(heads, "ALONE_SECONDS", 1e9)
    array = root.create_array("a", data=np.arange(3), chunks=(2,))
    for number in range(3):
        zarrvec.append(array, [10 + number])
    assert engine.known_heads(repository_of(array)[0].place).is_alone()
    with another_process():
        zarrvec.append(zarr.open_array(url, path="a"), [20])
    assert zarrvec.append(array, [30]) == (8,)
    assert not engine.known_heads(repository_of(array)[0].place).is_alone()
    assert array[:].tolist() == [0, 1, 2, 10, 11, 12, 20, 30]
    with another_process():
        assert zarrvec.append(zarr.open_array(url, path="a"), [40]) == (9,)
    assert root["a"][:].tolist() == [0, 1, 2, 10, 11, 12, 20, 30, 40]


def test_what_an_append_is_refused_for_is_true_of_the_newest_version(root, url, monkeypatch):
    monkeypatch.setattr(heads, "ALONE_SECONDS", 1e9)
    array = root.create_array("a", data=np.zeros((2, 3)), chunks=(2, 3))
    for _ in range(2):
        zarrvec.append(array, np.zeros((1, 3)))
    with another_process():
        zarr.open_group(url).create_array("a", data=np.ones((2, 4)), chunks=(2, 4), overwrite=True)
    assert engine.known_heads(repository_of(array)[0].place).is_alone()
    assert zarrvec.append(array, np.ones((1, 4))) == (3, 4)
    with pytest.raises(ValueError, match="shape"):
        zarrvec.append(array, np.ones((1, 3)))
    assert root["a"].shape == (3, 4)


def test_a_key_is_listed_once_though_its_page_has_documents_and_chunks(root, url):
    for number in range(40):  # more than 32 KiB of documents: they go into pages
        root.create_array(f"a{number}", data=np.ones(2), chunks=(1,), attributes={"text": "x" * 1000})

    async def keys():
        return [key async for key in zarrvec.open_store(url).list()]

    found = run_sync(keys())
    assert len(found) == len(set(found)) == 1 + 40 * 3
    assert sorted(root.array_keys()) == sorted(f"a{number}" for number in range(40))


@pytest.mark.once
@pytest.mark.parametrize("compressed", [True, False])
def test_larger_than_memory(url, compressed):
    options = {"zarrvec": {"pack_bytes": 1 << 20}}
    root = zarr.open_group(url, mode="a", storage_options=options)
    array = root.create_array(
        "a",
        shape=(512, 64, 1024),
        chunks=(1, 8, 1024),
        dtype="u1",
        **({} if compressed else {"compressors": None}),
    )
    block = np.random.default_rng(0).integers(0, 255, (16, 64, 1024), dtype="u1")
    array[:16] = block
    gc.collect()
    tracemalloc.start()
    with zarrvec.transaction(array, message="32 MiB through packs of 1 MiB"):
        for start in range(0, 512, 16):
            array[start : start + 16] = block + np.uint8(start // 16)
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20
    sizes = [path.stat().st_size for path in Path(url.removeprefix("zarrvec://")).glob("packs/*/*.pack")]
    assert max(sizes) < 1.1 * (1 << 20)
    assert len(sizes) < (512 * 64 * 1024) / (1 << 20) * 1.1 + 4
    for start in (0, 256, 496):
        assert np.array_equal(array[start : start + 16], block + np.uint8(start // 16))


def test_an_ended_transaction_is_over(root):
    with zarrvec.transaction(root) as transaction:
        root.create_group("g")
    with pytest.raises(TransactionError, match="not open"):
        transaction.staging  # noqa: B018


def test_at_tag_branch_diff_revert(root, url):
    a = root.create_array("a", data=np.array([1, 2, 3]), chunks=(1,))
    first = zarrvec.tag(root, "first")
    a[1] = 20
    root.create_array("b", data=np.array([4]))
    assert zarrvec.at(root, "first")["a"][:].tolist() == [1, 2, 3]
    assert zarrvec.at(a, first.number)[:].tolist() == [1, 2, 3]
    assert zarrvec.at(a, first.id[:10])[:].tolist() == [1, 2, 3]
    assert zarrvec.at(a, first.time)[:].tolist() == [1, 2, 3]
    assert zarr.open_group(url, mode="r", storage_options={"zarrvec": {"at": "first"}})["a"][1] == 2
    assert zarrvec.diff(root, "first") == {"a/c/1": "changed", "b/c/0": "added", "b/zarr.json": "added"}
    with pytest.raises(ConflictError, match="first"):
        zarrvec.tag(root, "first")
    zarrvec.branch(root, "side", at="first")
    side = zarr.open_group(url, mode="r+", storage_options={"zarrvec": {"branch": "side"}})
    side["a"][0] = 100
    assert side["a"][:].tolist() == [100, 2, 3]
    assert root["a"][:].tolist() == [1, 20, 3]
    with pytest.raises(ConflictError, match="side"):
        zarrvec.branch(root, "side")
    assert "Revert" in zarrvec.revert(root, "first").message
    assert root["a"][:].tolist() == [1, 2, 3]
    assert sorted(root.keys()) == ["a"]
    assert zarrvec.diff(root, "first").keys() <= {"a/c/1"}


def test_commits_of_two_branches_that_have_one_number(root, url):
    a = root.create_array("a", data=np.arange(3), chunks=(1,))
    zarrvec.branch(root, "side")
    side = zarr.open_group(url, mode="r+", storage_options={"zarrvec": {"branch": "side"}})
    a[0] = 10
    zarrvec.tag(root, "theirs")
    side["a"][0] = 20
    side.create_array("z", shape=1000, chunks=(1,), dtype="u1", fill_value=1)[:] = (
        0  # what a has in commits moves to pages
    )
    assert zarrvec.history(root)[0].number == zarrvec.history(side)[0].number - 2
    assert zarrvec.diff(side, "theirs", "theirs") == {}
    assert {key: what for key, what in zarrvec.diff(side, "theirs").items() if not key.startswith("z/")} == {
        "a/c/0": "changed"
    }
    zarrvec.revert(side, "theirs")
    assert side["a"][:].tolist() == [10, 1, 2]
    assert zarrvec.diff(side, "theirs") == {"a/c/0": "changed"}  # by another commit


def test_an_id_of_digits_alone(root, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("zarrvec.engine.committer.secrets.token_bytes", lambda count: b"\x12" * count)
        commit = zarrvec.tag(root.create_array("a", data=np.array([1])), "first")
    root["a"][0] = 2
    assert commit.id[:10] == "1212121212"
    assert zarrvec.at(root, commit.id[:10])["a"][0] == zarrvec.at(root, commit.id)["a"][0] == 1
    for ref in (1212121212, "3434343434", "9" * 5000):
        with pytest.raises(RefNotFoundError):
            zarrvec.at(root, ref)
    day = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    assert zarrvec.at(root, day.strftime("%Y%m%d"))["a"][0] == 2


@pytest.mark.parametrize("name", ["", "7", "../x", "a/b", "x" * 201, ".hidden"])
def test_names_that_no_tag_can_have(root, name):
    with pytest.raises(OptionError, match="tag="):
        zarrvec.tag(root, name)


def test_two_that_begin_one_branch_at_once(root, url):
    root.create_array("a", data=np.array([1, 2]), chunks=(1,))
    numbers = [commit.number for commit in zarrvec.history(root)]

    async def race():
        engine = await zarrvec.open_store(url).repository.engine()
        commits = [await engine.heads.read(number) for number in numbers]
        return await asyncio.gather(*(engine.branch("side", c) for c in commits), return_exceptions=True)

    outcomes = run_sync(race())
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert [type(outcome) for outcome in refused] == [ConflictError] * (len(numbers) - 1)
    won = numbers[outcomes.index(None)]
    side = zarrvec.open_store(url, branch="side")
    assert [commit.number for commit in zarrvec.history(side)] == [won]
