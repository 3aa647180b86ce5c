"""Does the native store do all that zarr expects of a store? zarr's own suite, on local files, in memory and on S3."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from zarr.core.buffer import Buffer, cpu
from zarr.testing.store import StoreTests

from zarrvec import ZarrVecStore, open_store
from zarrvec.engine.bridge import run
from zarrvec.engine.reader import Request
from zarrvec.testing.s3server import S3Bucket


class _NativeStoreTests(StoreTests[ZarrVecStore, cpu.Buffer]):
    store_cls = ZarrVecStore
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def open_kwargs(self, place: dict[str, Any]) -> dict[str, Any]:
        return dict(place)

    @pytest.fixture
    def store_kwargs(self, place: dict[str, Any]) -> dict[str, Any]:
        return {"repository": open_store(**place).repository}

    async def set(self, store: ZarrVecStore, key: str, value: Buffer) -> None:
        await run(store.repository.write({store.key_of(key): value.to_bytes()}))

    async def get(self, store: ZarrVecStore, key: str) -> Buffer:
        found = await run(store.repository.read_one(Request(store.key_of(key))))
        assert found is not None
        return self.buffer_cls.from_bytes(found.data)

    def test_store_repr(self, store: ZarrVecStore) -> None:
        assert repr(store) == f"<ZarrVecStore {store.repository.place.name}>"

    def test_store_supports_writes(self, store: ZarrVecStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: ZarrVecStore) -> None:
        assert store.supports_listing

    async def test_the_stores_keys_lie_below_its_path(
        self, store: ZarrVecStore, place: dict[str, Any]
    ) -> None:
        inner = ZarrVecStore(store.repository, "some/group")
        await inner.set("c/0", self.buffer_cls.from_bytes(b"x"))
        assert [key async for key in inner.list()] == ["c/0"]
        assert [key async for key in store.list()] == ["some/group/c/0"]
        assert [key async for key in open_store(**place).list_dir("some")] == ["group"]


class TestLocal(_NativeStoreTests):
    @pytest.fixture
    def place(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": f"zarrvec://{tmp_path}/data.zarr"}


class TestMemory(_NativeStoreTests):
    @pytest.fixture
    def place(self) -> dict[str, Any]:
        return {"url": f"zarrvec::memory://{uuid.uuid4().hex}"}


class TestS3(_NativeStoreTests):
    @pytest.fixture
    def place(self, s3_bucket: S3Bucket) -> dict[str, Any]:
        return {"url": f"zarrvec::{s3_bucket.url}", "storage_options": {"s3": s3_bucket.storage_options}}
