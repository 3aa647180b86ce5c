"""Which fixtures a test gets for running against a real S3 server, with or without faults.

Loaded by pytest for everyone who has zarrvec installed, so at import it costs nothing: what a fixture needs is
imported when the fixture is asked for.

With pytest-xdist all workers share one server. A worker that uses it holds a shared lock on a file in the run's
directory; the worker that started it waits, before it leaves, for the exclusive lock, which it gets once the
others have ended in whatever way.
"""

from __future__ import annotations

import json
import re
import uuid
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zarrvec.testing.proxy import S3Proxy
    from zarrvec.testing.s3server import S3Bucket

_EXIT: Final = pytest.StashKey[ExitStack]()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what the fixtures started, outside any test and its time limit."""
    if _EXIT in config.stash:
        config.stash[_EXIT].close()


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> S3Bucket:
    """Return the root of the bucket of a running S3 server: its endpoint, credentials and region."""
    stack = request.config.stash.setdefault(_EXIT, ExitStack())
    if hasattr(request.config, "workerinput"):
        return stack.enter_context(_shared_server(tmp_path_factory.getbasetemp().parent))
    from zarrvec.testing.s3server import S3Server

    return stack.enter_context(S3Server()).at()


@pytest.fixture
def s3_bucket(request: pytest.FixtureRequest, s3_server: S3Bucket) -> S3Bucket:
    """Return a fresh, empty place on the server, with ``.url`` and ``.storage_options``."""
    return _fresh(request, s3_server, s3_server.endpoint_url)


@pytest.fixture(scope="session")
def _s3_proxy_process(s3_server: S3Bucket) -> Iterator[S3Proxy]:
    from zarrvec.testing.proxy import S3Proxy

    with S3Proxy(s3_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def s3_proxy(_s3_proxy_process: S3Proxy) -> Iterator[S3Proxy]:
    """Return a proxy in front of the server, without latency, faults or counts at first."""
    _s3_proxy_process.reset()
    yield _s3_proxy_process
    _s3_proxy_process.reset()


@pytest.fixture
def proxied_bucket(request: pytest.FixtureRequest, s3_server: S3Bucket, s3_proxy: S3Proxy) -> S3Bucket:
    """Return a fresh, empty place on the server as seen through the test's `s3_proxy`."""
    return _fresh(request, s3_server, s3_proxy.endpoint_url)


def _fresh(request: pytest.FixtureRequest, root: S3Bucket, endpoint_url: str) -> S3Bucket:
    import dataclasses

    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40]
    return dataclasses.replace(root, endpoint_url=endpoint_url, prefix=f"{name}-{uuid.uuid4().hex[:12]}")


@contextmanager
def _shared_server(directory: Path) -> Iterator[S3Bucket]:
    """Start the run's server or join it."""
    import dataclasses
    import fcntl

    from zarrvec.testing.s3server import S3Bucket, S3Server

    described = directory / "zarrvec-s3-server.json"
    # Record locks, since a forked child inherits none of them and keeps nobody waiting.
    with (directory / "zarrvec-s3-users.lock").open("a+") as users, ExitStack() as stack:
        with (directory / "zarrvec-s3-start.lock").open("a+") as starting:
            fcntl.lockf(starting, fcntl.LOCK_EX)
            fcntl.lockf(users, fcntl.LOCK_SH)
            place = S3Bucket(**json.loads(described.read_text())) if described.exists() else None
            if place is None or not _answers(place):
                place = stack.enter_context(S3Server()).at()
                stack.callback(described.unlink)
                stack.callback(fcntl.lockf, users, fcntl.LOCK_EX)
                described.touch(mode=0o600)
                described.write_text(json.dumps(dataclasses.asdict(place)))
        yield place


def _answers(place: S3Bucket) -> bool:
    """Whether the server is there; it is not if the worker that started it has crashed."""
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(place.endpoint_url)
    try:
        socket.create_connection((parts.hostname, parts.port or 80), timeout=5).close()
    except OSError:
        return False
    return True
