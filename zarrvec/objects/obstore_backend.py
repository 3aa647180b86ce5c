"""How does obstore (S3, GCS, Azure) serve as the fast backend?

Facts it rests on are in ``specs/storage-operations.md``: mode ``create`` is If-None-Match, ranges are read one by one
(obstore's own merging reads far more than asked), a client never crosses a fork.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import obstore
from obstore import exceptions as failures

from zarrvec.errors import AccessError, MissingObjectError, StorageError
from zarrvec.objects.protocol import Data, ObjectInfo

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_ACCESS_HINTS = (
    "NoSuchBucket",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AccessDenied",
    "credential",
    "169.254",
)


class ObstoreObjects:
    """Objects of an obstore store whose prefix is the root.

    Parameters
    ----------
    store
        An obstore store.
    store_once
        The same without retries, for creating objects: a create that is tried again can be refused because of itself.
    name
        The root as a URL, for messages.
    """

    create_is_atomic = True
    create_refusals_are_final = True

    def __init__(self, store: "ObjectStore", store_once: "ObjectStore", name: str) -> None:
        self._store = store
        self._store_once = store_once
        self.name = name

    async def get(self, path: str) -> Data | None:
        """See `Objects.get`."""
        try:
            result = await obstore.get_async(self._store, path)
            return memoryview(await result.bytes_async())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._failed(path, error) from error
            return None
        except failures.BaseError as error:
            raise self._failed(path, error) from error

    async def get_range(self, path: str, start: int, length: int) -> Data:
        """See `Objects.get_range`."""
        try:
            return memoryview(await obstore.get_range_async(self._store, path, start=start, length=length))
        except FileNotFoundError as error:
            raise MissingObjectError(f"{self.name}/{path}: there is no such object.") from error
        except failures.BaseError as error:
            raise self._failed(path, error) from error

    async def put(self, path: str, data: bytes) -> None:
        """See `Objects.put`."""
        try:
            await obstore.put_async(self._store, path, data)
        except (failures.BaseError, OSError) as error:
            raise self._failed(path, error) from error

    async def create(self, path: str, data: bytes) -> bool:
        """See `Objects.create`."""
        try:
            await obstore.put_async(self._store_once, path, data, mode="create", use_multipart=False)
        except failures.AlreadyExistsError:
            return False
        except (failures.BaseError, OSError) as error:
            raise self._failed(path, error) from error
        return True

    async def list(self, prefix: str, *, limit: int | None = None) -> Sequence[ObjectInfo]:
        """See `Objects.list`."""
        found: list[ObjectInfo] = []
        try:
            async for batch in obstore.list(self._store, prefix or None, chunk_size=1000):
                found.extend(
                    ObjectInfo(meta["path"], meta["size"], meta["last_modified"].timestamp())
                    for meta in batch
                )
                if limit is not None and len(found) >= limit:
                    break
        except (failures.BaseError, OSError) as error:
            raise self._failed(prefix, error) from error
        return sorted(found)[:limit]

    async def delete(self, paths: Sequence[str]) -> None:
        """See `Objects.delete`."""
        try:
            await obstore.delete_async(self._store, list(paths))
        except FileNotFoundError:
            return
        except failures.BaseError as error:
            raise self._failed(",".join(paths[:3]), error) from error

    def _failed(self, path: str, error: Any) -> StorageError:
        text = str(error).split("Debug source:")[0].strip()
        where = f"{self.name}/{path}"
        denied = isinstance(error, failures.PermissionDeniedError | failures.UnauthenticatedError)
        if denied or any(hint in text for hint in _ACCESS_HINTS):
            return AccessError(
                f"{where}: {text} Check that the bucket exists and that the credentials (storage_options 'key' and "
                "'secret', or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) may use it; 'anon': True for public data."
            )
        return StorageError(
            f"{where}: {text} Check the endpoint and the network; what was committed before is safe."
        )
