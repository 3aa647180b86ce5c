"""Do the specifications say enough? A reader that shares no code with zarrvec reads what zarrvec wrote."""

import asyncio
import functools
import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest
import zarr

import zarrvec
from zarrvec.engine.bridge import run_sync
from zarrvec.format.envelope import crc32c

_spec = importlib.util.spec_from_file_location(
    "independent_reader", Path(__file__).parents[1] / "independent_reader.py"
)
assert _spec is not None
assert _spec.loader is not None
reader = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reader)
reader.crc32c = functools.lru_cache(50_000)(reader.crc32c)  # many versions hold the same values


def repository(path, **options):
    return zarrvec.open_store(f"zarrvec://{path}", **options).repository


def content(path, number):
    """What zarrvec itself says that a version holds."""
    pinned = repository(path, at=number)

    async def read():
        rows = await pinned.list_keys("")
        keys = [key for key, _ in rows]
        found = await pinned.read_entries(keys, [entry for _, entry in rows])
        return {key: value.data for key, value in zip(keys, found, strict=True)}

    return run_sync(read())


def check(path, model=None):
    """Every version that there is, and the newest against what was written; return how many versions there are."""
    numbers = reader.versions(path)
    for number in numbers:
        assert reader.read_store(path, number=number) == content(path, number)
    if model is not None:
        assert reader.read_store(path) == model
    return len(numbers)


def commits(path):
    store = reader.Store(path)
    return [store.commit("main", number) for number in store.numbers("main")]


def data_of(size, seed):
    return random.Random(seed).randbytes(size)


def test_checksums_agree():
    for size in (0, 1, 7, 8, 9, 1000):
        assert reader.crc32c(data_of(size, size)) == crc32c(data_of(size, size))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_arrays(tmp_path, zarr_format):
    url = f"zarrvec://{tmp_path}/data.zarr"
    root = zarr.open_group(url, mode="w", zarr_format=zarr_format)
    values = np.random.default_rng(0).normal(size=(60, 40)).astype("f4")
    array = root.create_array("x", shape=(60, 40), chunks=(7, 9), dtype="f4")
    array[:] = values
    array[3:20, 5:9] = 1
    array.attrs["unit"] = "m"
    array.resize((50, 40))
    values[3:20, 5:9] = 1
    plain = zarr.storage.MemoryStore()
    held = reader.read_store(tmp_path / "data.zarr")
    for key, value in held.items():
        asyncio.run(plain.set(key, zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(value)))
    copy = zarr.open_group(plain, mode="r")
    held_array = copy["x"]
    assert isinstance(held_array, zarr.Array)
    np.testing.assert_array_equal(held_array[:], values[:50])
    assert held_array.attrs["unit"] == "m"
    assert check(tmp_path / "data.zarr") >= 5


def test_values_of_every_size(tmp_path):
    store = repository(tmp_path)
    sizes = [0, 1, 511, 512, 513, 4095, 4096, 4097, 70_000, 300_000]
    model = {f"v/c/{size}": data_of(size, size) for size in sizes}
    model["v/zarr.json"] = data_of(70_000, 1)
    model["w/zarr.json"] = b"{}"
    for key, data in model.items():
        run_sync(store.write({key: data}))
    run_sync(store.write({key.replace("v/", "u/"): data for key, data in model.items()}))
    model |= {key.replace("v/", "u/"): data for key, data in model.items()}
    assert check(tmp_path, model) == 13


def test_many_commits_with_folds_deletes_and_clears(tmp_path):
    """Deep history: deltas that fold page by page, deleted keys, cleared prefixes, and what is written after them."""
    store = repository(tmp_path)
    chance = random.Random(5)
    model: dict[str, bytes] = {}
    for step in range(60):
        puts, deletes, clears = {}, [], []
        folder = f"g{chance.randrange(3)}"
        for _ in range(chance.choice([1, 3, 40, 200])):
            name = f"{folder}/c/{chance.randrange(400)}/{chance.randrange(3)}"
            puts[name] = data_of(chance.choice([3, 100, 100, 600]), chance.random())
        puts[f"{folder}/zarr.json"] = b"%d" % step
        if step % 4 == 1:
            deletes = [key for key in chance.sample(sorted(model), min(len(model), 20)) if key not in puts]
        if step % 13 == 12:
            clears = [chance.choice(["g0", "g1/c", "g2/c/7", "nothing"])]
        if step == 40:
            clears = [""]
        run_sync(store.write(puts, deletes=deletes, clears=clears))
        for prefix in clears:
            inside = f"{prefix}/" if prefix else ""
            model = {key: data for key, data in model.items() if not key.startswith(inside)}
        model = {key: data for key, data in model.items() if key not in deletes} | puts
    found = commits(tmp_path)
    assert any(commit["clears"] for commit in found)
    assert any(
        0 < commit["root_number"] < commit["number"] - 1 for commit in found
    )  # a delta grew over several
    assert len({bytes(commit["root"]) for commit in found}) > 10  # and was folded many times
    assert check(tmp_path, model) == 60


def test_a_root_in_a_pack(tmp_path):
    store = repository(tmp_path)
    letters = str.maketrans("0123456789", "ghijklmnop")  # long names without numbers, which sort faster
    rows = {f"{data_of(440, n).hex().translate(letters)}/{n}": b"x" for n in range(5_600)}
    run_sync(store.write(rows))
    run_sync(store.write({"more/c/0": b"y" * 9000}))
    assert commits(tmp_path)[0]["root_at"] is not None
    held = reader.read_store(tmp_path)
    assert held == rows | {"more/c/0": b"y" * 9000}


def test_transactions_of_several_packs(tmp_path):
    options = {"zarrvec": {"pack_bytes": 65536}}
    url = f"zarrvec://{tmp_path}/data.zarr"
    root = zarr.open_group(url, mode="w", storage_options=options)
    values = np.random.default_rng(1).integers(0, 255, (40, 100, 100), "u1")
    with zarrvec.transaction(root, message="all of it"):
        array = root.create_array("images", data=values, chunks=(1, 100, 100), compressors=None)
        array[5] = 7
        root.create_array("gone", data=values[:3], chunks=(1, 100, 100), compressors=None)
        del root["gone"]

    def fail():
        with zarrvec.transaction(root):
            array[:] = 0
            raise RuntimeError("nothing of this")

    with pytest.raises(RuntimeError, match="nothing of this"):
        fail()
    newest = commits(tmp_path / "data.zarr")[0]
    assert newest["message"] == "all of it"
    values[5] = 7
    held = reader.read_store(tmp_path / "data.zarr")
    for index in range(40):
        assert held[f"images/c/{index}/0/0"] == values[index].tobytes()
    assert not any(key.startswith("gone") for key in held)
    used = {row[3] for row in reader.Store(tmp_path / "data.zarr").rows(newest).values()}
    assert len(used) > 3
    check(tmp_path / "data.zarr")


def test_branches_and_tags(tmp_path):
    store = zarrvec.open_store(f"zarrvec://{tmp_path}")
    run_sync(store.repository.write({"a/c/0": b"1" * 600}))
    zarrvec.branch(store, "try")
    other = zarrvec.open_store(f"zarrvec://{tmp_path}", branch="try")
    run_sync(other.repository.write({"a/c/0": b"2" * 600, "a/c/1": b"3" * 600}))
    assert reader.read_store(tmp_path, "try") == {"a/c/0": b"2" * 600, "a/c/1": b"3" * 600}
    assert reader.read_store(tmp_path) == {"a/c/0": b"1" * 600}


@pytest.mark.parametrize("where", ["refs", "packs"])
def test_damage_is_seen(tmp_path, where):
    run_sync(repository(tmp_path).write({"a/c/0": data_of(5000, 1)}))
    path = next((tmp_path / where).rglob("*.[cp]*[tk]"))
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(reader.UnreadableError):
        reader.read_store(tmp_path)
