"""The command line on real stores: what it shows, what it copies, what damage it finds, what scripts learn from it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner
from zarr.storage import LocalStore

import zarrvec
from zarrvec.cli.app import app
from zarrvec.format.pack import pack_name

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


def test_pack_needs_little_memory(tmp_path):
    """A store is copied that is larger than what the process grows by."""
    array = zarr.create_array(
        LocalStore(tmp_path / "plain.zarr"),
        shape=(300, 1 << 20),
        chunks=(1, 1 << 20),
        dtype="u1",
        compressors=None,
    )
    row = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype="u1")
    for index in range(300):
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
    assert grown_kib < 220 << 10, f"copying 300 MiB took {grown_kib >> 10} MiB"
    assert run_json("verify", tmp_path / "new.zarr")["value_bytes"] > 300 << 20


# -- search, options, errors --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("command", ["info", "ls", "log", "verify", "tag"])
def test_what_is_no_store_is_said_in_one_line(tmp_path, command):
    errors = [run(command, tmp_path / "none", code=2).stderr]
    zarr.create_array(LocalStore(tmp_path / "plain.zarr"), data=np.arange(4))
    errors.append(run(command, tmp_path / "plain.zarr", code=2).stderr)
    assert "there is no zarrvec store" in errors[0]
    assert "holds plain Zarr" in errors[1]
    for error in errors:
        assert error.splitlines()[-1].startswith("zarrvec: ")


def test_options_reach_the_storage_and_typos_are_named(store):
    assert "'brunch'" in run("info", store, "-o", "zarrvec.brunch=main", code=2).stderr
    assert "STORAGE.KEY=VALUE" in run("info", store, "-o", "nonsense", code=2).stderr
    assert "not JSON" in run("info", store, "--storage-options", "{", code=2).stderr
    assert "no branch 'dev'" in run("info", store, "-o", "zarrvec.branch=dev", code=2).stderr
    assert run_json("info", store, "--storage-options", '{"zarrvec": {"branch": "main"}}')["branch"] == "main"


def test_the_installed_command_starts_and_has_no_traceback(tmp_path):
    command = [sys.executable, "-c", "from zarrvec.cli import main; main()"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    for name in ("info", "ls", "log", "diff", "tag", "branch", "verify", "pack", "search", "demo"):
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
    assert ours["objects"] == len(keys_of(tmp_path / "demo-data" / "demo.zarr"))
    assert plain["objects"] == len(keys_of(tmp_path / "demo-data" / "plain.zarr")) > 180
    assert ours["objects"] * 5 < plain["objects"]
    for step in ("write", "read all"):
        assert ours["requests"][step]["total"] * 4 < plain["requests"][step]["total"]
    assert ours["requests"]["change"]["put"] == 2
    assert report["frames_changed"] == [50]
    assert report["past_is_original"] is True
    assert [hit["text"].split(":")[0] for hit in report["searches"] if hit["distance"] < 1e-5] == [
        "vent, volcano",
        "violin, fiddle",
        "submarine, pigboat, sub, U-boat",
    ]
    assert run_json("verify", tmp_path / "demo-data" / "demo.zarr")["ok"]
    again = run("demo", tmp_path / "demo-data").stdout
    assert "turn a frame upside down" in again
    assert "volcanic" in again


def test_the_demo_deletes_nothing_of_others(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "'thesis.txt'" in run("demo", tmp_path, code=2).stderr
    assert (tmp_path / "thesis.txt").read_text() == "mine"
