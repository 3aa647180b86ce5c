"""A bit that flips on the way, or an answer that breaks off, is made up for, whichever request it meets."""

import dataclasses
import itertools
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest
import zarr

import zarrvec
from benchmarks.scaling.vectors import forget
from zarrvec.engine import writer
from zarrvec.engine.bridge import run_sync
from zarrvec.errors import MissingObjectError, StorageError
from zarrvec.layout import fold
from zarrvec.objects.opening import open_objects
from zarrvec.objects.protocol import Objects
from zarrvec.search import groups, index
from zarrvec.testing.proxy import FaultRule, S3Proxy
from zarrvec.testing.s3server import S3Bucket

ROWS = np.random.default_rng(0).standard_normal((3000, 8)).astype("f4")
QUERIES = ROWS[:4] + np.float32(0.01)
EACH = ("emb", "grouped")


def options_of(place: S3Bucket, backend: str, at: str | None = None) -> dict[str, Any]:
    return {"s3": place.storage_options, "zarrvec": {"backend": backend, "max_staleness": 60, "at": at}}


@pytest.fixture(scope="module")
def place(s3_server: S3Bucket, quick_builds: None) -> Iterator[S3Bucket]:
    """Where two indexed arrays are, on a zarrvec store of each backend, whose root is in a pack, and on a plain one.

    The index of one has a root of two levels.
    """
    place = dataclasses.replace(s3_server, prefix=f"reading-{uuid.uuid4().hex}")
    versioned = [
        zarr.open_group(
            f"zarrvec::{place.url}/{backend}", mode="w", storage_options=options_of(place, backend)
        )
        for backend in ("obstore", "fsspec")
    ]
    plain = zarr.open_group(f"{place.url}/plain", mode="w", storage_options=place.storage_options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "ROOT_INLINE_BYTES", 0)
        patch.setattr(fold, "DELTA_BYTES", 0)
        patch.setattr(index, "WHOLE_BYTES", 0)
        for group, name in itertools.product([*versioned, plain], EACH):
            patch.setattr(groups, "ROOT_BYTES", 0 if name == "grouped" else 8 << 20)
            array = group.create_array(name, shape=ROWS.shape, chunks=(500, 8), dtype="f4", fill_value=0)
            array[:] = ROWS
            array.vec.build_index(nlist=30)
        for group in versioned:
            zarrvec.tag(group, "tagged")
        yield place


@pytest.mark.parametrize("at", [None, "tagged"])
@pytest.mark.parametrize("fault", ["corrupt", "truncate"])
@pytest.mark.parametrize("backend", ["obstore", "fsspec"])
def test_a_store(place: S3Bucket, s3_proxy: S3Proxy, backend: str, fault: Any, at: str | None) -> None:
    proxied = dataclasses.replace(place, endpoint_url=s3_proxy.endpoint_url)

    def read() -> list[Any]:
        url, options = f"zarrvec::{proxied.url}/{backend}", options_of(proxied, backend, at)
        group = zarr.open_group(url, mode="r", storage_options=options)
        return [group["emb"][::100, 0].tolist(), *search(group)]

    assert met_by_each(s3_proxy, read, FaultRule(fault=fault, method="GET")) > 8


@pytest.mark.parametrize("fault", ["corrupt", "truncate"])
def test_an_index_on_a_plain_store(place: S3Bucket, s3_proxy: S3Proxy, fault: Any) -> None:
    proxied = dataclasses.replace(place, endpoint_url=s3_proxy.endpoint_url)

    def opened() -> zarr.Group:
        return zarr.open_group(f"{proxied.url}/plain", mode="r+", storage_options=proxied.storage_options)

    def append() -> int:
        array = opened()["emb"]
        before = array.shape[0]
        return int(array.vec.append(ROWS[:1])[0]) - before

    # nothing tells whether what zarr itself reads is what was written
    rule = FaultRule(fault=fault, method="GET", path=r"\.vec/\w+/\w+/c/")
    assert met_by_each(s3_proxy, lambda: search(opened()), rule) > 5
    assert met_by_each(s3_proxy, append, rule) > 1


def search(group: zarr.Group) -> list[Any]:
    return [group[name].vec.search(QUERIES, 5, nprobe=4, rerank=False).ids.tolist() for name in EACH]


def met_by_each(proxy: S3Proxy, read: Callable[[], Any], rule: FaultRule) -> int:
    """Let each request of a reading process meet a fault, one after the other; return how many there were."""
    forget()
    expected = read()
    for skip in itertools.count():
        forget()
        proxy.reset()
        proxy.configure(rules=[dataclasses.replace(rule, skip=skip)])
        assert read() == expected, proxy.stats().log
        if not any(record.fault for record in proxy.stats().log):
            break
    return skip


async def _missing_range(objects: Objects) -> None:
    with pytest.raises(MissingObjectError):
        await objects.get_range("missing", 0, 5)


ASKS: dict[str, Callable[[Objects], Awaitable[Any]]] = {
    "list": lambda objects: objects.list(""),
    "get": lambda objects: objects.get("missing"),
    "get_range": _missing_range,
}


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("backend", ["obstore", "fsspec"])
def test_answers_that_break_off(proxied_bucket: S3Bucket, s3_proxy: S3Proxy, backend: str, ask: str) -> None:
    expected, answer = run_sync(_answers(proxied_bucket, s3_proxy, backend, ask, times=2))
    assert answer == expected


@pytest.mark.parametrize("ask", ASKS)
def test_answers_that_always_break_off(proxied_bucket: S3Bucket, s3_proxy: S3Proxy, ask: str) -> None:
    with pytest.raises(StorageError) as caught:
        run_sync(_answers(proxied_bucket, s3_proxy, "obstore", ask, times=None))
    assert type(caught.value) is StorageError


async def _answers(place: S3Bucket, proxy: S3Proxy, backend: str, ask: str, times: int | None) -> list[Any]:
    """Ask twice, the second time of a storage whose answers break off so often."""
    root = f"{place.bucket}/{place.prefix}"
    objects = open_objects("s3", root, place.storage_options, backend=backend)
    await objects.put("there", b"1")
    expected = await ASKS[ask](objects)
    proxy.configure(rules=[FaultRule(fault="truncate", times=times)])
    return [expected, await ASKS[ask](objects)]
