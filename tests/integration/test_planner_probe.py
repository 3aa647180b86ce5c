"""A place is measured in seconds, as it is, and is left as it was."""

import time

import numpy as np
import pytest
import zarr

from zarrvec.engine.bridge import run_sync
from zarrvec.errors import OptionError, StorageError
from zarrvec.objects.memory import MemoryObjects, shared_memory_objects
from zarrvec.planner.probe import probe

pytestmark = pytest.mark.once


def test_latency_of_s3(proxied_bucket, s3_proxy):
    s3_proxy.configure(ttfb="60", bandwidth=40e6)
    url = f"zarrvec::{proxied_bucket.url}/probed.zarr"
    target = probe(url, storage_options={"s3": proxied_bucket.storage_options}, seconds=4)
    assert 0.06 <= target.get_seconds < 0.5
    assert target.put_seconds >= 0.06
    assert target.connection_bytes_per_second < 60e6
    assert target.concurrency > 4
    assert target.get_dollars == 0.0004 / 1000
    stats = s3_proxy.stats()
    assert (
        sum(stats.requests.get(kind, 0) for kind in ("PUT", "GET")) < 400
    )  # 393, if all 64 connections are tried
    array = zarr.create_array(
        url, data=np.array([1, 2]), storage_options={"s3": proxied_bucket.storage_options}
    )
    assert array[1] == 2


def test_rate_of_all_connections(proxied_bucket, s3_proxy):
    """Where each connection has its own bandwidth, many together are as fast as many: the engine reads so."""
    s3_proxy.configure(ttfb="5", bandwidth=2e6)
    url = f"zarrvec::{proxied_bucket.url}/probed.zarr"
    began = time.monotonic()
    target = probe(url, storage_options={"s3": proxied_bucket.storage_options}, seconds=4)
    assert time.monotonic() - began < 8
    assert 1e6 < target.connection_bytes_per_second < 3e6
    assert (
        target.read_bytes_per_second > 5 * target.connection_bytes_per_second
    )  # of 8 to 64, on a busy machine too
    stats = s3_proxy.stats()
    assert stats.bytes_in < 36 << 20  # slow places are sent less
    assert stats.total_requests < 450


def test_nothing_is_left(tmp_path):
    assert probe(str(tmp_path / "new" / "place"), seconds=1).get_seconds > 0
    assert list(tmp_path.iterdir()) == []
    there = zarr.create_array(f"zarrvec://{tmp_path}/there", data=np.array([1, 2]))
    probe(f"zarrvec://{tmp_path}/there", seconds=1)
    assert there[0] == 1
    assert not list((tmp_path / "there").rglob("*plan-*"))


def test_nothing_is_left_when_it_fails(monkeypatch):
    async def fail(self, path, start, length):
        raise StorageError("gone")

    monkeypatch.setattr(MemoryObjects, "get_range", fail)
    with pytest.raises(StorageError, match="gone"):
        probe("zarrvec::memory://probed-and-failed", seconds=1)
    monkeypatch.undo()
    assert run_sync(shared_memory_objects("probed-and-failed").list("")) == []
    assert probe("zarrvec::memory://probed-and-failed", seconds=1).get_seconds > 0


def test_no_time_is_no_probe():
    with pytest.raises(OptionError, match="seconds=0"):
        probe("zarrvec::memory://x", seconds=0)
