"""One small scenario on every object storage; options in fsspec's spelling; unsafe storages are refused."""

import asyncio
import uuid
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.local import LocalFileSystem

import zarrvec
from zarrvec.engine import engine as engines
from zarrvec.engine.bridge import run_sync
from zarrvec.errors import AccessError, BackendUnsafeError, ConflictError, OptionError, StorageError
from zarrvec.faces.targets import repository_of
from zarrvec.objects.fsspec_backend import FsspecObjects
from zarrvec.objects.local import LocalObjects
from zarrvec.objects.memory import MemoryObjects
from zarrvec.objects.obstore_backend import ObstoreObjects
from zarrvec.objects.opening import open_objects
from zarrvec.objects.options import translate
from zarrvec.testing.proxy import S3Proxy
from zarrvec.testing.s3server import S3Bucket

UNSAFE = {"unsafe_single_writer": True}


@pytest.fixture(params=["memory", "local", "sync", "s3", "s3-fsspec", "dir"])
def place(request: pytest.FixtureRequest, tmp_path: Any) -> tuple[str, dict[str, Any], type]:
    name = uuid.uuid4().hex
    match request.param:
        case "memory":
            return f"zarrvec::memory://{name}/data.zarr", {}, MemoryObjects
        case "local":
            return f"zarrvec://{tmp_path}/data.zarr", {}, LocalObjects
        case "sync":
            return f"zarrvec::file://{tmp_path}/data.zarr", {"zarrvec": {"sync": True}}, LocalObjects
        case "dir":  # some filesystem of fsspec's that zarrvec knows nothing of
            fsspec.register_implementation("dirlike", DirLike, clobber=True)
            return f"zarrvec::dirlike://{tmp_path}/data.zarr", {"zarrvec": UNSAFE}, FsspecObjects
    bucket = request.getfixturevalue("s3_bucket")
    url = f"zarrvec::{bucket.url}/data.zarr"
    if request.param == "s3":
        return url, {"s3": bucket.storage_options}, ObstoreObjects
    return url, {"s3": bucket.storage_options, "zarrvec": {"backend": "fsspec"}}, FsspecObjects


def test_a_group_is_made_where_nothing_is(place: tuple[str, dict[str, Any], type]) -> None:
    url, options, _ = place
    for number in range(2):
        group = zarr.open_group(url, mode="w", storage_options=options)
        group.create_array(f"a{number}", data=np.arange(3))
        assert list(zarr.open_group(url, mode="r", storage_options=options)) == [f"a{number}"]


def test_an_object_is_written_from_parts(place: tuple[str, dict[str, Any], type]) -> None:
    url, options, _ = place
    root = zarr.open_group(url, mode="a", storage_options=options)
    parts = [b"", b"abc", bytes(range(256)) * 1000, b"z"]

    async def write() -> None:
        objects = (await repository_of(root)[0].engine()).objects
        for path, data in (("packs/parts", parts), ("packs/none", []), ("packs/parts", [*parts, b"again"])):
            await objects.put(path, data)
            there = await objects.get(path)
            assert there is not None
            assert bytes(there) == b"".join(data)

    run_sync(write())


class DirLike(LocalFileSystem):
    """Files, through a filesystem of fsspec's that zarrvec has never heard of."""

    protocol = "dirlike"  # type: ignore[assignment]
    cachable = False


def test_scenario(place: tuple[str, dict[str, Any], type]) -> None:
    url, options, kind = place
    root = zarr.open_group(url, mode="a", storage_options=options)
    array = root.create_array("x", shape=(30, 10), chunks=(3, 10), dtype="i4")
    array[:] = np.arange(300).reshape(30, 10)
    engine = run_sync(repository_of(root)[0].engine())
    assert type(engine.objects) is kind
    before = zarrvec.history(root, limit=1)[0]
    array[4, 2:5] = -1
    with zarrvec.transaction(root, message="both") as transaction:
        zarrvec.append(array, np.ones((2, 10), "i4"))
        root.attrs["a"] = 1
    assert zarrvec.history(root)[0].message == "both"
    assert zarrvec.history(root)[0].number == transaction.number
    zarrvec.tag(root, "v1", at=before.number)
    with pytest.raises(ConflictError):
        zarrvec.tag(root, "v1")

    expected = np.concatenate([np.arange(300).reshape(30, 10), np.ones((2, 10), "i4")])
    expected[4, 2:5] = -1
    run_sync(engines.close_engines())
    again = zarr.open_group(url, mode="r", storage_options=options)
    assert np.array_equal(again["x"][:], expected)
    assert dict(again.attrs) == {"a": 1}
    old = zarrvec.at(again, "v1")
    assert np.array_equal(old["x"][:], np.arange(300).reshape(30, 10))
    assert sorted(again.array_keys()) == ["x"]
    del root["x"]
    assert list(zarr.open_group(url, mode="r", storage_options=options).array_keys()) == []


def test_objects_below_many_threads_agree(place: tuple[str, dict[str, Any], type]) -> None:
    """Exactly one of many creators wins, and a listing is complete and in order."""
    url, options, kind = place
    repository = repository_of(url, options)[0]
    if kind is FsspecObjects and repository.place.protocol == "dirlike":
        pytest.skip("it can't create atomically, which is why it is refused")

    async def race() -> tuple[list[bool], list[str], Any]:
        objects = (await repository.engine()).objects
        won = await asyncio.gather(*(objects.create("packs/one", bytes([k])) for k in range(16)))
        for k in range(5):
            await objects.put(f"packs/x/{k}", b"1")
        listed = [info.path for info in await objects.list("packs/")]
        value = await objects.get("packs/one")
        assert await objects.get("packs/none") is None
        assert bytes(await objects.get_range("packs/x/1", 0, 5)) == b"1"
        await objects.delete([*listed, "packs/none"])
        assert list(await objects.list("packs/")) == []
        return won, listed, value

    won, listed, value = run_sync(race())
    assert won.count(True) == 1
    assert bytes(value) == bytes([won.index(True)])
    assert listed == ["packs/one", *(f"packs/x/{k}" for k in range(5))]


# -- storages that can't be written safely --------------------------------------------------------------------------


def test_a_filesystem_without_put_if_absent_is_refused(tmp_path: Any) -> None:
    fsspec.register_implementation("dirlike", DirLike, clobber=True)
    with pytest.raises(BackendUnsafeError, match="unsafe_single_writer"):
        zarr.open_group(f"zarrvec::dirlike://{tmp_path}/data.zarr", mode="a")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_storage_that_overwrites_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    async def create(self: LocalObjects, path: str, data: bytes) -> bool:
        await self.put(path, data)
        return True

    monkeypatch.setattr(LocalObjects, "create", create)
    with pytest.raises(BackendUnsafeError, match="created twice"):
        zarr.create_array(f"zarrvec://{tmp_path}/data.zarr", data=np.arange(4))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    zarr.create_array(f"zarrvec://{tmp_path}/b.zarr", data=np.arange(4), storage_options={"zarrvec": UNSAFE})
    assert zarr.open_array(f"zarrvec://{tmp_path}/b.zarr", mode="r")[:].tolist() == [0, 1, 2, 3]


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options", "name"),
    [
        ("zarrvec::s3://b/d", {"s3": {"secert": "x"}}, "secert"),
        ("zarrvec::memory://d", {"memory": {"size": 1}}, "size"),
        ("zarrvec::file:///nowhere/d", {"file": {"size": 1}}, "size"),
        ("zarrvec:///nowhere/d", {"zarrvec": {"brnch": "x"}}, "brnch"),
        ("zarrvec:///nowhere/d", {"zarrvec": {"backend": "boto"}}, "boto"),
        ("zarrvec:///nowhere/d", {"zarrvec": {"pack_bytes": 3}}, "pack_bytes"),
        ("zarrvec:///nowhere/d", {"zarrvec": {"pack_bytes": "3"}}, "pack_bytes"),
        ("zarrvec:///nowhere/d", {"zarrvec": {"max_staleness": -1}}, "max_staleness"),
        ("zarrvec:///nowhere/d", {"zarrvec": {"branch": "../x"}}, "branch"),
    ],
)
def test_a_wrong_option_is_named(url: str, options: dict[str, Any], name: str) -> None:
    with pytest.raises(OptionError, match=name):
        zarr.open_group(url, mode="r", storage_options=options)


@pytest.mark.parametrize("protocol", ["s3", "gs", "az"])
def test_a_wrong_option_of_a_storage_is_named(protocol: str) -> None:
    with pytest.raises(OptionError, match="tokken"):
        translate(protocol, {"tokken": "x"})


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


@pytest.mark.usefixtures("no_environment")
def test_s3_options_are_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"key": "k", "secret": "s"}

    def of(**options: Any) -> dict[str, Any]:
        translation = translate("s3", options)
        assert translation is not None
        return translation.config

    plain = {"access_key_id": "k", "secret_access_key": "s", "region": "us-east-1", "unsigned_payload": True}
    assert of(**keys) == plain
    assert of(**keys, token="t") == {**plain, "session_token": "t"}
    assert of(anon=True) == {"skip_signature": True, "region": "us-east-1"}
    assert of(**keys, requester_pays=True) == {**plain, "request_payer": True}
    endpoint = "http://127.0.0.1:1"
    assert of(**keys, endpoint_url=endpoint) == {**plain, "endpoint": endpoint}
    assert of(**keys, client_kwargs={"endpoint_url": endpoint, "region_name": "r"}) == {
        **plain,
        "endpoint": endpoint,
        "region": "r",
    }
    http = translate("s3", {**keys, "endpoint_url": endpoint})
    assert http is not None
    assert http.client_options["allow_http"]
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert of(**keys) == {**plain, "region": "eu-west-1", "endpoint": endpoint}


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize(
    ("options", "is_unsigned"),
    [
        ({}, True),
        ({"endpoint_url": "https://s3.eu-west-1.amazonaws.com"}, True),
        ({"endpoint_url": "http://localhost:9000"}, True),
        ({"endpoint_url": "http://[::1]:9000"}, True),
        ({"anon": True}, False),
        ({"use_ssl": False}, False),
        ({"client_kwargs": {"verify": False}}, False),
        ({"endpoint_url": "http://s3.eu-west-1.amazonaws.com"}, False),
        ({"endpoint_url": "https://amazonaws.com.example.org"}, False),
        ({"endpoint_url": "https://minio.example.org"}, False),
        ({"endpoint_url": "http://10.0.0.7:9000"}, False),
    ],
)
def test_payloads_are_signed_where_nothing_else_guards_them(
    options: dict[str, Any], *, is_unsigned: bool
) -> None:
    translation = translate("s3", {"key": "k", "secret": "s"} | options)
    assert translation is not None
    assert translation.config.get("unsigned_payload", False) == is_unsigned


@pytest.mark.usefixtures("no_environment")
def test_what_obstore_takes_is_spelled_as_it_takes_it() -> None:
    from obstore.store import S3Store

    translation = translate("s3", {"key": "k", "secret": "s", "requester_pays": True, "token": "t"})
    assert translation is not None
    S3Store("b", config=translation.config, client_options=translation.client_options)


@pytest.mark.parametrize(
    "options",
    [
        {"profile": "p"},
        {"key": "k", "secret": "s", "config_kwargs": {"retries": {}}},
        {"key": "k", "secret": "s", "client_kwargs": {"use_dualstack": True}},
        {"key": "k", "secret": "s", "client_kwargs": {"verify": "/ca.pem"}},
        {"key": "k", "secret": "s", "s3_additional_kwargs": {"ServerSideEncryption": "aws:kms"}},
    ],
)
def test_what_only_s3fs_can_do_goes_to_s3fs(options: dict[str, Any]) -> None:
    assert translate("s3", options) is None

    async def kind() -> type:
        return type(open_objects("s3", "bucket/data", options))

    assert run_sync(kind()) is FsspecObjects


def test_what_only_s3fs_can_do_works(s3_bucket: Any) -> None:
    options = {"s3": {**s3_bucket.storage_options, "config_kwargs": {"retries": {"total_max_attempts": 2}}}}
    array = zarr.create_array(f"zarrvec::{s3_bucket.url}/d", data=np.arange(5), storage_options=options)
    engine = run_sync(repository_of(array)[0].engine())
    assert type(engine.objects) is FsspecObjects
    assert array[:].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("backend", ["obstore", "fsspec"])
def test_a_wrong_key_or_bucket_is_an_access_error(s3_bucket: Any, backend: str) -> None:
    good = s3_bucket.storage_options
    bucket = f"no-such-bucket-{uuid.uuid4().hex[:8]}"
    for url, s3 in (
        (f"zarrvec::{s3_bucket.url}/d", {**good, "secret": "wrong"}),
        (f"zarrvec::s3://{bucket}/d", good),
    ):
        options = {"s3": s3, "zarrvec": {"backend": backend}}
        with pytest.raises(AccessError):
            zarr.open_group(url, mode="a", storage_options=options).attrs["a"] = 1


def test_ranges_asked_for_together_are_requests_of_their_own(
    s3_proxy: S3Proxy, proxied_bucket: S3Bucket
) -> None:
    """Whether or not one call of obstore brings them: no byte of a gap is read, and a wrong range spoils no other."""
    data = np.random.default_rng(0).bytes(12 << 20)
    starts = [0, 10, 2 << 20, (2 << 20) + 7, 4 << 20, 7 << 20, 9 << 20, (12 << 20) - 4]
    root, options = proxied_bucket.url.removeprefix("s3://"), proxied_bucket.storage_options

    async def read(wanted: list[tuple[int, int]]) -> list[Any]:
        objects = open_objects("s3", root, options)
        await objects.put("packs/one", data)
        ranges = [objects.get_range("packs/one", *one) for one in wanted]
        return await asyncio.gather(*ranges, return_exceptions=True)

    with s3_proxy.counting() as count:
        found = run_sync(read([(start, 9) for start in starts]))
    assert [bytes(part) for part in found] == [data[start : start + 9] for start in starts]
    assert count.requests["GET"] == len(starts)
    assert count.bytes_out == sum(map(len, found))

    one, two, beyond = run_sync(read([(0, 9), (4 << 20, 9), (13 << 20, 9)]))
    assert (bytes(one), bytes(two)) == (data[:9], data[4 << 20 : (4 << 20) + 9])
    assert isinstance(beyond, StorageError)
