"""Bad input gets a clear, typed error that names the object or key, and loses nothing."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import zarr

import zarrvec
from zarrvec import errors
from zarrvec.engine import engine as engines
from zarrvec.engine.bridge import run_sync
from zarrvec.format.envelope import HEADER, crc32c


@pytest.fixture
def url(tmp_path):
    return f"zarrvec://{tmp_path}/data.zarr"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data.zarr"


def forget_engines():
    run_sync(engines.close_engines())


def make(url, chunks=40):
    array = zarr.create_array(
        url, name="x", shape=(chunks, 512), chunks=(1, 512), dtype="f4", compressors=None
    )
    array[:] = np.arange(chunks * 512, dtype="f4").reshape(chunks, 512)
    return array


def newest_commit(root):
    return min((root / "refs/heads/main").iterdir())


def pack(root):
    return max(root.glob("packs/*/*.pack"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("mode", ["r", "r+", "a", "w", "w-"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_zarr_is_left_alone(tmp_path, url, root, mode, zarr_format):
    zarr.create_array(str(root), shape=(4,), dtype="i4", zarr_format=zarr_format)[:] = 5
    with pytest.raises(errors.NotAStoreError, match="plain Zarr"):
        zarr.open(url, mode=mode, shape=(2,), dtype="i4")
    assert zarr.open_array(str(root), mode="r")[:].tolist() == [5] * 4


@pytest.mark.parametrize("mode", ["r", "a", "w"])
def test_a_file(url, root, mode):
    root.write_bytes(b"something")
    with pytest.raises(errors.NotAStoreError, match="is a file"):
        zarr.open_group(url, mode=mode)
    assert root.read_bytes() == b"something"


def test_other_objects(url, root):
    root.mkdir()
    (root / "notes.txt").write_text("mine")
    with pytest.raises(errors.NotAStoreError, match=r"notes\.txt"):
        zarr.open_group(url, mode="w")


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_nothing(url, mode):
    with pytest.raises(FileNotFoundError):
        zarr.open_group(url, mode=mode)


def test_a_branch_that_is_not_there(url):
    make(url)
    with pytest.raises(errors.RefNotFoundError, match="'experiment'"):
        zarr.open_group(url, mode="r", storage_options={"zarrvec": {"branch": "experiment"}})


def test_a_newer_format(url, root):
    make(url)
    path = newest_commit(root)
    data = bytearray(path.read_bytes())
    data[5] = 9
    data[HEADER.size - 4 : HEADER.size] = crc32c(
        bytes(data[: HEADER.size - 4]) + bytes(data[HEADER.size :])
    ).to_bytes(4, "little")
    path.write_bytes(data)
    forget_engines()
    with pytest.raises(errors.FormatVersionError, match=r"version 9.*Upgrade"):
        zarr.open_group(url, mode="r")


def test_a_corrupt_commit(url, root):
    make(url)
    path = newest_commit(root)
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    forget_engines()
    with pytest.raises(errors.CorruptError, match=path.name):
        zarr.open_group(url, mode="r")


def test_a_truncated_commit(url, root):
    make(url)
    path = newest_commit(root)
    path.write_bytes(path.read_bytes()[:30])
    forget_engines()
    with pytest.raises(errors.CorruptError, match=path.name):
        zarr.open_group(url, mode="r")


def test_a_corrupt_value(url, root):
    array = make(url)
    path = pack(root)
    data = bytearray(path.read_bytes())
    data[8 + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(errors.CorruptError, match=rf"x/c/0/0.*{path.name}.*zarrvec verify"):
        array[0]
    assert array[1, 0] == 512  # the others are read


def test_a_corrupt_page(url, root):
    make(url, chunks=3000)
    path = pack(root)
    data = bytearray(path.read_bytes())
    forget_engines()
    array = zarr.open_array(url, path="x", mode="r")

    async def page():
        from zarrvec.faces.targets import repository_of

        repository, _ = repository_of(array)
        engine = await repository.engine()
        return (await engine.reader.root(await repository.version())).pages[0]

    where = run_sync(page()).location
    data[where.offset + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(errors.CorruptError, match=path.name):
        array[0]


def test_a_truncated_pack(url, root):
    array = make(url)
    path = pack(root)
    path.write_bytes(path.read_bytes()[:3000])
    assert array[0, 1] == 1
    with pytest.raises(errors.CorruptError, match=rf"{path.name}.*cut short"):
        array[30]


def test_a_lost_pack(url, root):
    array = make(url)
    pack(root).unlink()
    with pytest.raises(errors.MissingObjectError, match="manifest names this pack"):
        array[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"zarrvec": {"brunch": "main"}}, "'brunch'.*branch"),
        ({"zarrvec": {"max_staleness": -1}}, "max_staleness=-1"),
        ({"zarrvec": {"max_staleness": "soon"}}, "max_staleness='soon'"),
        ({"zarrvec": {"pack_bytes": 12}}, "pack_bytes=12"),
        ({"zarrvec": {"pack_bytes": "16MiB"}}, "pack_bytes='16MiB'"),
        ({"zarrvec": {"backend": "boto"}}, "backend='boto'"),
        ({"zarrvec": {"branch": "../x"}}, r"branch='\.\./x'"),
        ({"zarrvec": {"at": True}}, "at=True"),
        ({"key": "k"}, "'key'"),
    ],
)
def test_option_typos(url, options, said):
    with pytest.raises(errors.OptionError, match=said):
        zarr.open_group(url, mode="a", storage_options=options)


def test_option_typos_of_the_inner_storage():
    options = {"s3": {"key": "k", "secret": "s", "endpoint": "x"}}
    with pytest.raises(errors.OptionError, match=r"'endpoint'.*endpoint_url"):
        zarr.open_group("zarrvec::s3://bucket/x.zarr", mode="a", storage_options=options)


def test_writing_to_a_past_version(url):
    make(url)
    before = zarrvec.history(url)
    for call in (
        lambda: zarr.open_group(url, mode="r+", storage_options={"zarrvec": {"at": 2}}).create_group("y"),
        lambda: zarr.open_array(url, path="x", mode="r+", storage_options={"zarrvec": {"at": 2}}).__setitem__(
            0, 1
        ),
        lambda: zarrvec.transaction(zarrvec.open_store(url, at=2)).__enter__(),
    ):
        with pytest.raises(errors.ReadOnlyError):
            call()
    assert zarrvec.history(url) == before


@pytest.mark.parametrize("ref", ["nothing", 99, "2001-01-01", "0123456789abcdef"])
def test_a_version_that_is_not_there(url, ref):
    make(url)
    with pytest.raises(errors.RefNotFoundError, match="2001" if "2001" in str(ref) else str(ref)):
        zarrvec.at(url, ref)


@pytest.mark.parametrize("key", ["", "a/../b", "../b", "a//b", "a/./b", "x" * 1025, "a\0b", "/a"])
def test_keys(url, key):
    make(url)
    before = zarrvec.history(url)
    store = zarrvec.open_store(url)
    with pytest.raises(errors.KeyNameError):
        run_sync(store.repository.write({key: b"1"}))
    assert zarrvec.history(url) == before


def test_missing_bucket(s3_bucket):
    options = {"s3": s3_bucket.storage_options}
    with pytest.raises(errors.AccessError, match=r"no-such-bucket.*[Cc]heck that the bucket exists"):
        zarr.open_group("zarrvec::s3://no-such-bucket/x.zarr", mode="a", storage_options=options)


@pytest.mark.parametrize("backend", ["obstore", "fsspec"])
def test_wrong_credentials(s3_bucket, backend):
    options = {
        "s3": {**s3_bucket.storage_options, "secret": "wrong"},
        "zarrvec": {"backend": backend},
    }
    with pytest.raises(errors.AccessError, match="credentials"):
        zarr.open_group(f"zarrvec::{s3_bucket.url}/x.zarr", mode="a", storage_options=options)


def test_no_network():
    options = {"s3": {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:9"}}
    with pytest.raises(errors.StorageError, match="network"):
        zarr.open_group("zarrvec::s3://bucket/x.zarr", mode="r", storage_options=options)


def test_a_directory_that_cannot_be_made():
    with pytest.raises(errors.StorageError, match="/proc/none"):
        zarr.open_group("zarrvec:///proc/none/x.zarr", mode="w")


def test_read_only_storage():
    with pytest.raises(errors.AccessError, match=r"/sys/.*permissions, or open it read-only"):
        zarr.open_group("zarrvec:///sys/x.zarr", mode="w")


def test_a_full_disk_mid_write(url, root):
    make(url)
    before = zarrvec.history(url)
    code = f"""
        import zarr, numpy, zarrvec
        from zarrvec.errors import StorageError
        array = zarr.open_array({url!r}, path="x", mode="r+")
        try:
            array[:] = numpy.ones((40, 512))
        except StorageError as error:
            print("refused:", error)
    """

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True, capture_output=True, text=True, preexec_fn=limit, timeout=60,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert "refused:" in done.stdout
    array = zarr.open_array(url, path="x", mode="r")
    assert array[3, 1] == 3 * 512 + 1
    assert zarrvec.history(url) == before
    assert not list(Path(root).rglob(".tmp-*"))


def test_other_targets():
    with pytest.raises(errors.OptionError, match="not on a zarrvec store"):
        zarrvec.history(zarr.create_group(zarr.storage.MemoryStore()))


def test_transactions_do_not_nest(url):
    array = make(url)
    with (
        zarrvec.transaction(array),
        pytest.raises(errors.TransactionError, match="do not nest"),
        zarrvec.transaction(array),
    ):
        pass
