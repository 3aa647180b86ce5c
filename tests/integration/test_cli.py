"""The command line on real stores: what it shows, what it copies, what damage it finds, what scripts learn from it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner
from zarr.storage import LocalStore

import zarrvec
from zarrvec.cli.app import app
from zarrvec.cli.common import emit
from zarrvec.format.pack import pack_name

pytestmark = pytest.mark.usefixtures("quick_builds")

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
REPLAY_BUFFER = SHARED_DATA / "robot" / "pusht_keypoint_x356_y356.zarr"
needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="the real data is not beside this checkout"
)


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def run_json(*arguments, code=0):
    return json.loads(run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def store(tmp_path):
    """A store of several packs and versions, with chunks in packs and inline ones."""
    url = f"zarrvec://{tmp_path}/data.zarr"
    root = zarr.open_group(
        f"zarrvec://{tmp_path}/data.zarr", mode="w", storage_options={"zarrvec": {"pack_bytes": 1 << 16}}
    )
    rng = np.random.default_rng(0)
    with zarrvec.transaction(root, message="first"):
        frames = root.create_array("camera/rgb", shape=(40, 32, 32, 3), chunks=(1, 32, 32, 3), dtype="u1")
        frames[:] = rng.integers(0, 256, frames.shape, dtype="u1")
        root.create_array("state", data=np.arange(10.0), chunks=(5,))
    zarrvec.tag(url, "first")
    frames[3] = 7
    return tmp_path / "data.zarr"


def keys_of(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def values_of(url, **options):
    async def read():
        opened = zarrvec.open_store(str(url), read_only=True, **options)
        prototype = zarr.core.buffer.default_buffer_prototype()
        found = {key: await opened.get(key, prototype) async for key in opened.list()}
        return {key: value.to_bytes() for key, value in found.items() if value is not None}

    return zarr.core.sync.sync(read())


# -- info, ls, log, diff ------------------------------------------------------------------------------------------------


def test_info_counts_objects_packs_chunks_and_live_bytes(store):
    figures = run_json("info", store)
    files = keys_of(store)
    packs = [name for name in files if name.startswith("packs/")]
    assert figures["objects"] == len(files)
    assert figures["object_bytes"] == sum(map(len, files.values()))
    assert figures["packs"] == figures["version_packs"] == len(packs) > 1
    assert figures["pack_bytes"] == sum(len(files[name]) for name in packs)
    assert figures["chunks"] == 42
    values = values_of(store)
    assert figures["live_bytes"] + figures["inline_bytes"] == sum(map(len, values.values()))
    assert 0 < figures["live_bytes"] < figures["version_pack_bytes"], "the changed frame left a dead value"
    camera, state = figures["arrays"]
    assert (camera["path"], camera["shape"], camera["chunks"]) == (
        "camera/rgb",
        [40, 32, 32, 3],
        [1, 32, 32, 3],
    )
    assert camera["stored"] == camera["possible"] == 40
    assert camera["stored_bytes"] == sum(
        len(value) for key, value in values.items() if "/c/" in key and "rgb" in key
    )
    assert (state["path"], state["stored"], state["inline"], state["packs"]) == ("state", 2, 2, 0)
    text = run("info", store).stdout
    assert "camera/rgb" in text
    assert "40 of 40" in text


def test_info_of_a_past_version_and_of_a_part(store):
    now, then = run_json("info", store), run_json("info", store, "--at", "first")
    assert then["number"] == now["number"] - 1
    assert run_json("info", f"zarrvec://{store}/camera")["chunks"] == 40


def test_ls_shows_folders_keys_and_lengths(store):
    assert [row["name"] for row in run_json("ls", store)] == ["camera/", "state/", "zarr.json"]
    rows = {row["name"]: row for row in run_json("ls", store, "camera/rgb", "--recursive")}
    values = values_of(store)
    assert {name: row["bytes"] for name, row in rows.items()} == {
        key.removeprefix("camera/rgb/"): len(value)
        for key, value in values.items()
        if key.startswith("camera/rgb/")
    }
    assert rows["c/3/0/0/0"]["changed_in"] > rows["c/4/0/0/0"]["changed_in"]
    assert run_json("ls", store, "state/c/0")[0]["bytes"] == len(values["state/c/0"])
    assert "state/" in run("ls", store).stdout
    assert "there is nothing at 'no'" in run("ls", store, "no", code=2).stderr


def test_log_diff_tags_and_branches(store):
    commits = run_json("log", store)
    assert [commit["number"] for commit in commits] == sorted((c["number"] for c in commits), reverse=True)
    assert "first" in [commit["message"] for commit in commits]
    assert len(run_json("log", store, "-n", "1")) == 1
    assert run_json("diff", store, "first") == {"camera/rgb/c/3/0/0/0": "changed"}
    assert run("diff", store, "first").stdout == "changed  camera/rgb/c/3/0/0/0\n"
    assert run_json("tag", store) == ["first"]
    assert run_json("tag", store, "v2")["number"] == commits[0]["number"]
    assert run("tag", store).stdout.split() == ["first", "v2"]
    run("branch", store, "dev", "--at", "first")
    assert run_json("branch", store) == ["dev", "main"]
    assert len(run_json("log", store, "--branch", "dev")) == 1
    assert run("tag", store, "first", code=3).stderr.startswith("zarrvec: ")
    assert "no commit" in run("diff", store, "999999", code=2).stderr


# -- verify -------------------------------------------------------------------------------------------------------------


def location_of(store, key):
    """Return the file, offset and length of a value, as another reader of the listing would find them."""
    from zarrvec.engine.bridge import run_sync
    from zarrvec.faces.targets import repository_of

    repository, _ = repository_of(f"zarrvec://{store}")

    async def find():
        return (await repository.locate(await repository.view(), [key]))[0]

    entry = run_sync(find())
    return pack_name(entry.pack), entry.offset, entry.length


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_a_whole_store_verifies(store):
    report = run_json("verify", store)
    assert report["ok"]
    assert report["damages"] == []
    assert report["values"] == len(values_of(store))
    assert report["value_bytes"] == sum(map(len, values_of(store).values()))
    assert report["packs"] == len([name for name in keys_of(store) if name.startswith("packs/")])
    assert "no damage" in run("verify", store).stdout


def test_verify_names_the_key_and_the_object_of_a_flipped_bit(store):
    pack, offset, length = location_of(store, "camera/rgb/c/17/0/0/0")
    flip(store / pack, offset + length // 2)
    report = run_json("verify", store, code=1)
    assert not report["ok"]
    [damage] = report["damages"]
    assert (damage["object"], damage["key"]) == (pack, "camera/rgb/c/17/0/0/0")
    assert "CRC32C" in damage["problem"]
    text = run("verify", store, code=1).stdout
    assert pack in text
    assert "camera/rgb/c/17/0/0/0" in text


def test_verify_finds_every_flipped_bit_of_a_pack(store):
    """Any byte of a pack belongs to something that is checked: a value, its checksum, or a structure."""
    pack, _, _ = location_of(store, "camera/rgb/c/17/0/0/0")
    size = (store / pack).stat().st_size
    whole = (store / pack).read_bytes()
    for at in [0, 6, 7, 8, size // 3, size - 40, size - 16, size - 12, size - 1]:
        flip(store / pack, at)
        damages = run_json("verify", store, code=1)["damages"]
        assert {damage["object"] for damage in damages} == {pack}, at
        (store / pack).write_bytes(whole)
    run("verify", store)


def test_verify_lists_the_keys_that_a_truncated_pack_has_lost(store):
    pack, offset, length = location_of(store, "camera/rgb/c/17/0/0/0")
    lost = {
        key
        for key in values_of(store)
        if "/c/" in key
        and key.startswith("camera")
        and location_of(store, key)[0] == pack
        and location_of(store, key)[1] >= offset
    }
    data = (store / pack).read_bytes()
    (store / pack).write_bytes(data[: offset + length // 2])
    damages = run_json("verify", store, code=1)["damages"]
    assert {damage["object"] for damage in damages} == {pack}
    assert {damage["key"] for damage in damages} == {None, *lost}


def test_verify_lists_the_keys_that_a_deleted_pack_has_lost(store):
    pack, _, _ = location_of(store, "camera/rgb/c/17/0/0/0")
    lost = {
        key
        for key in values_of(store)
        if key.startswith("camera/rgb/c") and location_of(store, key)[0] == pack
    }
    (store / pack).unlink()
    report = run_json("verify", store, code=1)
    assert {damage["object"] for damage in report["damages"]} == {pack}
    assert {damage["key"] for damage in report["damages"]} == {None, *lost}
    assert report["values"] == len(values_of_all_keys(store)) - len(lost)


def values_of_all_keys(store):
    async def names():
        return [key async for key in zarrvec.open_store(str(store)).list()]

    return zarr.core.sync.sync(names())


def test_verify_finds_damage_in_commits_and_manifest_pages(tmp_path):
    url = f"zarrvec://{tmp_path}/paged.zarr"
    array = zarr.create_array(url, shape=(3000,), chunks=(1,), dtype="i4", compressors=None)
    array[:] = np.arange(3000)
    store = tmp_path / "paged.zarr"
    assert run_json("verify", store)["pages"] > 0
    pages = [name for name in keys_of(store) if name.startswith("packs/")]
    whole = {name: (store / name).read_bytes() for name in pages}
    found = False
    for name in pages:
        at = whole[name].find(b"ZVEC")
        if at < 0:
            continue
        flip(store / name, at + 40)
        damages = run_json("verify", store, code=1)["damages"]
        assert {damage["object"] for damage in damages} == {name}
        found = found or any("manifest page" in damage["problem"] for damage in damages)
        (store / name).write_bytes(whole[name])
    assert found
    commits = sorted(name for name in keys_of(store) if name.endswith(".commit"))
    flip(store / commits[0], 30)
    damages = run_json("verify", store, code=1)["damages"]
    assert {damage["object"] for damage in damages} == {commits[0]}


# -- pack ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_pack_copies_every_key_as_it_is_in_one_commit(tmp_path, zarr_format):
    plain = tmp_path / "plain.zarr"
    root = zarr.create_group(LocalStore(plain), zarr_format=zarr_format, attributes={"title": "all kinds"})
    rng = np.random.default_rng(1)
    root.create_array("a/float", data=rng.normal(size=(30, 20)), chunks=(7, 5))
    root.create_array("empty", shape=(10, 10), chunks=(5, 5), dtype="i2", fill_value=3)
    root.create_array("scalar", shape=(), dtype="f8")[...] = 4.5
    if zarr_format == 3:
        root.create_array("sharded", data=np.arange(4096).reshape(64, 64), chunks=(4, 4), shards=(32, 32))
        zarr.create_array(root.store, name="text", shape=(3,), chunks=(2,), dtype=str)[:] = np.array(
            ["a", "é", ""]
        )
    report = run_json("pack", plain, tmp_path / "packed.zarr")
    assert values_of(tmp_path / "packed.zarr") == keys_of(plain)
    assert report["keys"] == len(keys_of(plain))
    assert report["value_bytes"] == sum(map(len, keys_of(plain).values()))
    assert len(run_json("log", tmp_path / "packed.zarr")) == 1
    packed = zarr.open_group(f"zarrvec://{tmp_path}/packed.zarr", mode="r")
    assert packed.attrs.asdict() == {"title": "all kinds"}
    for name, node in root.members(max_depth=None):
        assert node.metadata == packed[name].metadata
        if isinstance(node, zarr.Array):
            np.testing.assert_array_equal(zarr.open_array(packed.store, path=name, mode="r")[...], node[...])


@needs_shared_data
def test_pack_copies_a_real_replay_buffer_byte_by_byte(tmp_path):
    report = run_json("pack", REPLAY_BUFFER, tmp_path / "replay.zarr", "-o", f"zarrvec.pack_bytes={1 << 20}")
    assert values_of(tmp_path / "replay.zarr") == keys_of(REPLAY_BUFFER)
    assert report["number"] == 1
    figures = run_json("info", tmp_path / "replay.zarr")
    assert figures["chunks"] > 1000
    assert figures["objects"] < 30
    source = zarr.open_array(REPLAY_BUFFER, path="data/img", mode="r")
    packed = zarr.open_array(f"zarrvec://{tmp_path}/replay.zarr", path="data/img", mode="r")
    np.testing.assert_array_equal(packed[:500], source[:500])
    assert run_json("verify", tmp_path / "replay.zarr")["ok"]


def test_pack_to_and_from_s3(store, tmp_path, s3_bucket):
    url = f"zarrvec::{s3_bucket.url}/copy.zarr"
    options = ["--storage-options", json.dumps({"s3": s3_bucket.storage_options})]
    run("pack", store, url, *options)
    assert run_json("verify", url, *options)["ok"]
    assert run_json("info", url, *options)["chunks"] == 42
    run("pack", url, tmp_path / "back.zarr", *options)
    assert values_of(tmp_path / "back.zarr") == values_of(store)


def test_pack_copies_plain_zarr_on_s3(tmp_path, s3_bucket):
    options = s3_bucket.storage_options
    array = zarr.create_array(
        f"{s3_bucket.url}/plain.zarr", data=np.arange(100), chunks=(10,), storage_options=options
    )
    flags = [f"--option=s3.{name}={value}" for name, value in options.items() if isinstance(value, str)]
    run("pack", f"{s3_bucket.url}/plain.zarr", tmp_path / "copy.zarr", *flags)
    copied = zarr.open_array(f"zarrvec://{tmp_path}/copy.zarr", mode="r")
    np.testing.assert_array_equal(copied[:], array[:])
    assert copied.metadata == array.metadata


def test_pack_refuses_what_would_lose_something(store, tmp_path):
    plain = tmp_path / "plain.zarr"
    zarr.create_array(LocalStore(plain), data=np.arange(4))
    before = values_of(store)
    assert "--overwrite" in run("pack", plain, store, code=2).stderr
    assert values_of(store) == before
    run("pack", plain, store, "--overwrite", "-m", "start anew")
    assert values_of(store) == keys_of(plain)
    assert run_json("log", store)[0]["message"] == "start anew"
    assert "camera/rgb" in [array["path"] for array in run_json("info", store, "--at", "first")["arrays"]]
    assert "source and destination" in run("pack", store, store, "--overwrite", code=2).stderr


def test_pack_refuses_what_is_no_zarr(store, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("a")
    assert "holds no Zarr" in run("pack", tmp_path / "letters", tmp_path / "new.zarr", code=2).stderr
    assert "no such file" in run("pack", tmp_path / "none", tmp_path / "new.zarr", code=2).stderr
    assert "zarrvec::file" in run("pack", f"file://{store}", tmp_path / "new.zarr", code=2).stderr
    assert not (tmp_path / "new.zarr").exists()


def test_an_error_in_the_middle_lands_nothing(tmp_path, monkeypatch):
    plain = tmp_path / "plain.zarr"
    zarr.create_array(LocalStore(plain), data=np.arange(100), chunks=(1,))
    get = LocalStore.get

    async def failing(self, key, *arguments, **options):
        return None if key == "c/77" else await get(self, key, *arguments, **options)

    monkeypatch.setattr(LocalStore, "get", failing)
    assert "'c/77'" in run("pack", plain, tmp_path / "new.zarr", code=2).stderr
    run("info", tmp_path / "new.zarr", code=2)


@pytest.mark.once
def test_pack_needs_little_memory(tmp_path):
    """A store is copied that is larger than what the process grows by."""
    array = zarr.create_array(
        LocalStore(tmp_path / "plain.zarr"),
        shape=(500, 1 << 20),
        chunks=(1, 1 << 20),
        dtype="u1",
        compressors=None,
    )
    row = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype="u1")
    for index in range(500):
        array[index] = np.roll(row, index)
    program = (
        "import resource, sys; from typer.testing import CliRunner; import zarr, zarrvec.cli.copying\n"
        "from zarrvec.cli.app import app\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "result = CliRunner().invoke(app, sys.argv[1:]); assert result.exit_code == 0, result.output\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", program, "pack", tmp_path / "plain.zarr", tmp_path / "new.zarr"]
    grown_kib = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown_kib < 384 << 10, f"copying 500 MiB took {grown_kib >> 10} MiB"
    assert run_json("verify", tmp_path / "new.zarr")["value_bytes"] > 500 << 20


# -- search -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zarrvec", "plain"])
def test_search_by_row_and_by_vector(tmp_path, kind):
    rng = np.random.default_rng(2)
    data = rng.normal(size=(50, 8)).astype("f4")
    place = f"zarrvec://{tmp_path}/v.zarr" if kind == "zarrvec" else f"{tmp_path}/v.zarr"
    root = zarr.create_group(place)
    root.create_array("vectors", data=data, chunks=(20, 8))
    root.create_array("names", shape=(50,), dtype=str)[:] = np.array(
        [f"row {i}" for i in range(50)], dtype=object
    )
    found = run_json("search", tmp_path / "v.zarr", "vectors", "--like", 7, "-k", 3)
    scores = data @ data[7] / np.linalg.norm(data, axis=1)
    assert found["ids"] == np.argsort(-scores)[:3].tolist()
    np.save(tmp_path / "q.npy", data[[1, 2]])
    found = run_json(
        "search", tmp_path / "v.zarr", "vectors", "--vector", tmp_path / "q.npy", "-k", 1, "--metric", "l2"
    )
    assert found["ids"] == [[1], [2]]
    shown = run("search", tmp_path / "v.zarr", "vectors", "--like", 7, "-k", 1, "--show", "names").stdout
    assert shown.split()[-2:] == ["row", "7"]
    assert (
        "expected an array, such as one of ['names', 'vectors']"
        in run("search", tmp_path / "v.zarr", "--like", 7, code=2).stderr
    )
    assert "expected one of" in run("search", tmp_path / "v.zarr", "vectors", code=2).stderr
    assert (
        "expected a row below 50"
        in run("search", tmp_path / "v.zarr", "vectors", "--like", 50, code=2).stderr
    )


# -- index --------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["zarrvec", "plain", "zarrvec on S3", "plain on S3"])
def collection(request, tmp_path):
    """Write vectors with names on any storage; return the command's arguments, options and the vectors."""
    rng = np.random.default_rng(3)
    data = (rng.normal(size=(30, 16))[rng.integers(0, 30, 900)] + 0.4 * rng.normal(size=(900, 16))).astype(
        "f4"
    )
    prefix = "zarrvec::" if request.param.startswith("zarrvec") else ""
    options: dict[str, Any] = {}
    url, flags = str(tmp_path / "v.zarr"), []
    if request.param.endswith("S3"):
        bucket = request.getfixturevalue("s3_bucket")
        options = bucket.storage_options if not prefix else {"s3": bucket.storage_options}
        url = f"{prefix}{bucket.url}/v.zarr"
        flags = ["--storage-options", json.dumps({"s3": bucket.storage_options})]
    elif prefix:
        url = f"zarrvec://{url}"
    root = zarr.open_group(url, mode="w", storage_options=options or None)
    root.create_array("emb", data=data, chunks=(100, 16))
    return [url, "emb", *flags], root, data


def nearest(data, query, k=5):
    scores = data @ data[query] / np.linalg.norm(data, axis=1)
    return np.argsort(-scores)[:k].tolist()


def test_an_index_is_built_looked_at_put_in_order_and_dropped(collection):
    where, root, data = collection
    assert "build_index()" in run("index", "info", *where, code=2).stderr
    built = run_json("index", *where, "--nlist", 12)
    assert (built["lists"], built["rows"], built["metric"], built["path"][-7:]) == (
        12,
        900,
        "cosine",
        "emb.vec",
    )
    assert run_json("index", "info", *where) == built
    found = run_json("search", *where, "--like", 7, "-k", 5, "--nprobe", 12, "--rerank")
    assert found["ids"] == nearest(data, 7)
    assert found["stats"]["nprobe"] == 12
    assert found["stats"]["lists"] == 12
    assert run_json("search", *where, "--like", 7, "-k", 5, "--exact")["ids"] == nearest(data, 7)

    data = np.concatenate([data, data[:40] * 2])
    zarr.open_array(root.store, path="emb", mode="r+").append(data[900:])
    assert {7, 907} == set(run_json("search", *where, "--like", 7, "-k", 2, "--recall", 0.99)["ids"])
    assert run_json("index", "info", *where)["rows_out_of_lists"] == 40
    assert run_json("index", "optimize", *where)["action"] == "merged"
    after = run_json("index", "info", *where)
    assert (after["rows"], after["rows_out_of_lists"]) == (940, 0)
    assert {7, 907} == set(run_json("search", *where, "--like", 7, "-k", 2, "--recall", 0.99)["ids"])

    assert run_json("index", "drop", *where) == {"dropped": True}
    run("index", "info", *where, code=2)
    assert root["emb"].shape == (940, 16)


@pytest.fixture
def indexed(tmp_path):
    """A small index in a local store, and its vectors."""
    data = np.random.default_rng(4).normal(size=(600, 8)).astype("f4")
    root = zarr.open_group(f"zarrvec://{tmp_path}/info", mode="w")
    root.create_array("texts/emb", data=data, chunks=(100, 8))
    names = root.create_array("texts/name", shape=(600,), chunks=(300,), dtype=str)
    names[:] = np.array([f"name {i}" for i in range(600)], dtype=object)
    root.create_array("parity", data=np.arange(600) % 2, chunks=(300,))
    root["texts/emb"].vec.build_index(nlist=6)
    return tmp_path / "info", data


def test_what_an_index_is_built_with(indexed, tmp_path):
    store, data = indexed
    np.save(tmp_path / "queries.npy", data[:50] + 0.1)
    arguments = ("--nlist", 5, "--bits", 4, "--metric", "l2", "--seed", 3, "--memory", "64MiB")
    built = run_json("index", *arguments, "--queries", tmp_path / "queries.npy", store, "texts/emb")
    assert (built["lists"], built["bits"], built["metric"]) == (5, 4, "l2")
    assert (built["calibration"]["measured_on"], built["calibration"]["queries"]) == ("queries", 50)
    again = run_json("index", "build", f"zarrvec://{store}/texts/emb")
    assert (again["path"], again["lists"], again["metric"]) == ("texts/emb.vec", 6, "cosine")


def test_what_people_see_of_an_index(indexed):
    store, _ = indexed
    built = run("index", store, "texts/emb")
    for stage in ("read", "train", "assign", "write"):
        assert stage in built.stderr
    shown = run("index", "info", store, "texts/emb").stdout
    assert built.stdout == shown
    for text in (
        "texts/emb.vec",
        "metric cosine",
        "600 of 8 numbers",
        "in 6 lists",
        "rows in no list: 0",
        "recall@10",
    ):
        assert text in shown
    assert run("index", "optimize", store, "texts/emb").stdout.startswith("none: all rows are in one segment")
    assert run("index", "drop", store, "texts/emb").stdout == "dropped\n"
    assert run("index", "drop", store, "texts/emb").stdout == "there was no index\n"


def test_calls_of_index_that_are_wrong(indexed, tmp_path, monkeypatch):
    store, _ = indexed
    where = (store, "texts/emb")
    (tmp_path / "letter.txt").write_text("no numbers")
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "several.npz", a=np.eye(8), b=np.eye(8))
    wrong = {
        "expected an array, such as one of ['parity', 'texts/emb', 'texts/name']": (store,),
        "expected bytes, such as 512MiB": (*where, "--memory", "lots"),
        "is not a .npy file": (*where, "--queries", tmp_path / "letter.txt"),
        "EOF": (*where, "--queries", tmp_path / "empty.npy"),
        "magic string": (*where, "--queries", tmp_path / "several.npz"),
        "No such file": (*where, "--queries", tmp_path / "none.npy"),
        "Is a directory": (*where, "--queries", tmp_path),
        "bits=5": (*where, "--bits", 5),
        "nlist=0": (*where, "--nlist", 0),
        "metric": (*where, "--metric", "cosin"),
        "no such file or directory": (tmp_path / "none.zarr",),
        "texts/none": (store, "texts/none"),
    }
    for text, arguments in wrong.items():
        error = run("index", *arguments, code=2).stderr
        assert text in error.splitlines()[-1], (text, error)
        assert error.splitlines()[-1].startswith("zarrvec: ")
    with zarr.storage.ZipStore(tmp_path / "v.zip", mode="w") as archive:
        zarr.create_array(archive, data=np.eye(8, dtype="f4"))
    assert "is a file; expected a directory" in run("index", tmp_path / "v.zip", code=2).stderr
    assert "a past version is read-only" in run("index", *where, "-o", "zarrvec.at=1", code=2).stderr
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert "pip install 'zarrvec[search]'" in run("index", *where, code=2).stderr


def test_help_of_index_names_its_commands(indexed):
    for arguments in ((), ("--help",)):
        shown = CliRunner().invoke(app, ["index", *arguments]).output
        for name in ("build", "info", "optimize", "drop"):
            assert name in shown
    assert "--queries" in CliRunner().invoke(app, ["index", "build", "--help"]).output


def test_search_among_some_rows_and_what_it_brings(indexed, tmp_path):
    store, data = indexed
    where = (store, "texts/emb", "--like", 9, "-k", 4, "--recall", 0.99)
    ids = np.arange(0, 600, 3)
    expected = ids[np.array(nearest(data[ids], 3, 4))].tolist()
    (tmp_path / "ids.txt").write_text("\n".join(map(str, ids)))
    np.save(tmp_path / "ids.npy", ids)
    np.save(tmp_path / "mask.npy", np.isin(np.arange(600), ids))
    for name in ("ids.txt", "ids.npy", "mask.npy"):
        assert run_json("search", *where, "--where-ids", tmp_path / name)["ids"] == expected
    (tmp_path / "ids.txt").write_text("1 2 x")
    assert "expected ids of rows" in run("search", *where, "--where-ids", tmp_path / "ids.txt", code=2).stderr
    assert "No such file" in run("search", *where, "--where-ids", tmp_path / "none.txt", code=2).stderr
    (tmp_path / "ids.txt").write_text("600")
    assert "600" in run("search", *where, "--where-ids", tmp_path / "ids.txt", code=2).stderr

    found = run_json("search", *where, "--include", "name", "--include", "vectors", "--show", "parity")
    assert found["columns"]["name"] == [f"name {row}" for row in found["ids"]]
    np.testing.assert_array_equal(np.float32(found["columns"]["vectors"]), data[found["ids"]])
    assert found["columns"]["parity"] == [row % 2 for row in found["ids"]]
    lines = run("search", *where, "--include", "name").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [line.split()[-1] for line in lines]
    assert "'nome'" in run("search", *where, "--include", "nome", code=2).stderr
    root = zarr.open_group(f"zarrvec://{store}", mode="r+")
    root.create_array("few", data=np.arange(5))
    assert "expected one that begins with (600,)" in run("search", *where, "--show", "few", code=2).stderr


def test_search_prints_json_that_others_can_read(indexed):
    store, _ = indexed
    root = zarr.open_group(f"zarrvec://{store}", mode="r+")
    weights = np.full(600, np.nan)
    weights[9], weights[3] = 0.5, np.inf
    root.create_array("texts/weight", data=weights)
    root.create_array("texts/phase", data=np.full(600, 1j))
    where = (store, "texts/emb", "--like", 9, "-k", 3, "--exact")

    def refuse(constant):
        raise AssertionError(constant)

    shown = run("search", *where, "--include", "weight", "--json").stdout
    assert json.loads(shown, parse_constant=refuse)["columns"]["weight"] == [0.5, None, None]
    assert (
        "phase: 1j has no JSON form" in run("search", *where, "--include", "phase", "--json", code=2).stderr
    )
    assert "1j" in run("search", *where, "--include", "phase").stdout


def test_a_store_without_versions_is_not_taken_for_a_past_one(tmp_path):
    zarr.create_array(f"{tmp_path}/v.zarr", data=np.eye(4, dtype="f4"))
    for options in (("--at", "3"), ("--branch", "mine"), ("-o", "zarrvec.at=3")):
        told = run("search", f"{tmp_path}/v.zarr", "--like", 1, *options, code=2).stderr
        assert "no zarrvec store, so it has no versions" in told


def test_explain_tells_what_a_search_would_take(indexed):
    store, _ = indexed
    where = (store, "texts/emb", "-k", 3, "--explain")
    plan = run_json("search", *where, "--like", 9, "--nprobe", 2)
    assert (plan["way"], plan["nprobe"], plan["queries"], plan["typical"]) == ("lists", 2, 1, False)
    assert plan["cached"] == plan["lists"] == 2, "opening so small an index reads all of it"
    assert run_json("search", *where)["typical"] is True
    text = run("search", *where, "--like", 9, "--exact").stdout
    assert text.startswith("way      all rows, an exact answer is asked for")
    assert "expected one of" in run("search", *where, "--like", 9, "--vector", "v.npy", code=2).stderr


def test_bytes_are_json_too(capsys):
    emit({"a": np.array([b"\xff", b"b"])})
    assert json.loads(capsys.readouterr().out) == {"a": ["\\xff", "b"]}


def test_search_says_what_it_cost(indexed, tmp_path):
    store, data = indexed
    np.save(tmp_path / "q.npy", data[:3])
    batch = run(
        "search", store, "texts/emb", "--vector", tmp_path / "q.npy", "-k", 2, "--nprobe", 1, "--no-rerank"
    )
    assert batch.stdout.count("query ") == 3
    assert "lists, " in batch.stderr
    assert "by their rows" not in batch.stderr
    assert (
        "rows compared" in run("search", store, "texts/emb", "--like", 0, "--metric", "l2", "--exact").stderr
    )
    assert "ranked again by their rows" in run("search", store, "texts/emb", "--like", 0, "--rerank").stderr
    assert (
        "is for 'cosine'" in run("search", store, "texts/emb", "--like", 0, "--metric", "l2", code=2).stderr
    )
    assert "recall=1.5" in run("search", store, "texts/emb", "--like", 0, "--recall", 1.5, code=2).stderr


def test_search_says_that_queries_are_unlike_the_rows(tmp_path):
    rng = np.random.default_rng(5)
    array = zarr.create_array(f"zarrvec://{tmp_path}/l2", data=rng.normal(size=(500, 8)).astype("f4"))
    array.vec.build_index(metric="l2")
    np.save(tmp_path / "q.npy", np.array([np.zeros(8), np.full(8, 99)]))
    error = run("search", tmp_path / "l2", "--vector", tmp_path / "q.npy").stderr
    assert "1 of 2 queries are unlike" in error


# -- options, errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["info", "ls", "log", "verify", "tag"])
def test_what_is_no_store_is_said_in_one_line(tmp_path, command):
    errors = [run(command, tmp_path / "none", code=2).stderr]
    zarr.create_array(LocalStore(tmp_path / "plain.zarr"), data=np.arange(4))
    errors.append(run(command, tmp_path / "plain.zarr", code=2).stderr)
    assert "there is no zarrvec store" in errors[0]
    assert "holds plain Zarr" in errors[1]
    for error in errors:
        assert error.splitlines()[-1].startswith("zarrvec: ")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["info", "foo://x"], "foo://x: Protocol not known: foo"),
        (["search", "foo://x", "emb", "--like", "1"], "foo://x: Protocol not known: foo"),
        (["pack", "foo://x", "out.zarr"], "foo://x: Protocol not known: foo"),
        (["plan", "--shape", "10,10", "--dtype", "f4", "--probe", "foo://x"], "Protocol not known: foo"),
        (["search", "v.npy", "emb", "--like", "1"], "v.npy: is a file, but no ZIP file"),
        (["pack", "v.npy", "out.zarr"], "v.npy: is a file, but no ZIP file"),
        (["search", "plain.zarr", "../x", "--like", "1"], "plain.zarr ../x: .*'..' segments"),
    ],
)
def test_what_is_nowhere_to_be_found_is_said_in_one_line(tmp_path, monkeypatch, call, message):
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", np.arange(4))
    zarr.create_array(LocalStore("plain.zarr"), data=np.arange(4))
    assert re.search(f"zarrvec: .*{message}", run(*call, code=2).stderr)


def test_options_reach_the_storage_and_typos_are_named(store):
    assert "'brunch'" in run("info", store, "-o", "zarrvec.brunch=main", code=2).stderr
    assert "STORAGE.KEY=VALUE" in run("info", store, "-o", "nonsense", code=2).stderr
    assert "not JSON" in run("info", store, "--storage-options", "{", code=2).stderr
    assert "no branch 'dev'" in run("info", store, "-o", "zarrvec.branch=dev", code=2).stderr
    assert run_json("info", store, "--storage-options", '{"zarrvec": {"branch": "main"}}')["branch"] == "main"


@pytest.mark.once
def test_the_installed_command_starts_and_has_no_traceback(tmp_path):
    command = [sys.executable, "-c", "from zarrvec.cli import main; main()"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    for name in ("info", "ls", "log", "diff", "tag", "branch", "verify", "pack", "search", "demo", "index"):
        assert name in shown
    failed = subprocess.run(
        [*command, "info", tmp_path / "none"], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.count("\n") == 1


# -- demo ---------------------------------------------------------------------------------------------------------------


def test_the_demo_shows_fewer_objects_and_requests_and_the_past(tmp_path):
    report = run_json("demo", tmp_path / "demo-data")
    plain, ours = report["stores"]["plain Zarr"], report["stores"]["zarrvec"]
    of_index = ours["requests"]["index"]["put"]
    assert ours["objects"] + of_index == len(keys_of(tmp_path / "demo-data" / "demo.zarr"))
    assert plain["objects"] == len(keys_of(tmp_path / "demo-data" / "plain.zarr")) > 180
    assert ours["objects"] * 5 < plain["objects"]
    for step in ("write", "read all"):
        assert ours["requests"][step]["total"] * 4 < plain["requests"][step]["total"]
    assert ours["requests"]["change"]["put"] == 2
    assert report["frames_changed"] == [50]
    assert report["past_is_original"] is True
    assert [hit["text"].split(":")[0] for hit in report["searches"] if hit["distance"] < 1e-3] == [
        "vent, volcano",
        "violin, fiddle",
        "submarine, pigboat, sub, U-boat",
    ]
    assert report["same_hits"] >= 10
    assert report["index"]["rows"] == 4000
    without, through = report["search_stats"]["without index"], report["search_stats"]["with index"]
    assert without["vectors"] == 4000 > through["entries"] > 0
    assert (through["requests"], through["rounds"]) == (1, 1)
    assert through["bytes_read"] < report["stores"]["zarrvec"]["requests"]["without index"]["read_bytes"]
    assert report["stores"]["zarrvec"]["requests"]["with index: again"]["total"] == 0
    assert run_json("verify", tmp_path / "demo-data" / "demo.zarr")["ok"]
    again = run("demo", tmp_path / "demo-data").stdout
    assert "turn a frame upside down" in again
    assert "volcanic" in again


def test_the_demo_deletes_nothing_of_others(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "'thesis.txt'" in run("demo", tmp_path, code=2).stderr
    assert (tmp_path / "thesis.txt").read_text() == "mine"
