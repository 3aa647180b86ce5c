"""How does any fsspec filesystem serve as a backend: s3fs in a forked child, and every store obstore does not speak?

Source of the traps: ``specs/storage-operations.md``, section "fsspec".
"""

import asyncio
import os
import weakref
from collections.abc import Sequence
from typing import Any, Final

import fsspec

from zarrvec.errors import AccessError, MissingObjectError, OptionError, StorageError
from zarrvec.objects.protocol import Data, ObjectInfo, Parts, joined

CONDITIONAL_PROTOCOLS: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
"""Whose ``mode="create"`` is one conditional request; elsewhere it is a look followed by a write."""

_CONDITION_STATUS: Final = frozenset({409, 412})
_ACCESS_CODES: Final = frozenset({401, 403})
_DAMAGED: Final = "FlexibleChecksumError"
"""What botocore says of an object that doesn't match the checksum it was put with: a bit may have flipped on the way."""


class FsspecObjects:
    """Objects below a path of an fsspec filesystem.

    Parameters
    ----------
    protocol
        fsspec's name of the filesystem.
    root
        Path of the root in it.
    options
        Options of the filesystem.
    name
        The root as a URL, for messages.

    Raises
    ------
    OptionError
        If the filesystem is unknown, not installed, or refuses an option.
    """

    def __init__(self, protocol: str, root: str, options: dict[str, Any], *, name: str) -> None:
        self.name = name
        self.create_is_atomic = protocol in CONDITIONAL_PROTOCOLS
        self.create_refusals_are_final = False  # aiohttp sends a request again by itself
        options = {**options, "skip_instance_cache": True, "use_listings_cache": False}
        try:
            kind = fsspec.get_filesystem_class(protocol)
            if kind.async_impl:
                options |= {"asynchronous": True, "loop": asyncio.get_running_loop()}
            if protocol in ("s3", "s3a"):
                options.setdefault("max_concurrency", 1)  # above 1, s3fs sends a HEAD before every GET
            self._fs = kind(**options)
        except (TypeError, ValueError, ImportError) as error:
            raise OptionError(
                f"{name}: fsspec can't open {protocol!r} with these options: {error}"
            ) from error
        self._root = root.rstrip("/")
        self._session: Any = None

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    async def _call(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        if self._fs.async_impl:
            if self._session is None and self.create_is_atomic and hasattr(self._fs, "set_session"):
                self._session = await self._fs.set_session()
                loop = asyncio.get_running_loop()
                self._finalizer = weakref.finalize(self, _close_later, self._session, loop, os.getpid())
                self._finalizer.atexit = False
            return await getattr(self._fs, f"_{verb}")(*args, **kwargs)
        return await asyncio.to_thread(getattr(self._fs, verb), *args, **kwargs)

    async def close(self) -> None:
        """Close the connections, if there are any; using the storage again opens new ones."""
        if self._session is not None and self._finalizer.detach():
            session, self._session = self._session, None
            await session.__aexit__(None, None, None)

    async def get(self, path: str) -> Data | None:
        """See `Objects.get`."""
        try:
            return await self._read(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            if "bucket does not exist" in str(error):
                raise self._failed(path, error) from error
            return None
        except Exception as error:
            raise self._failed(path, error) from error

    async def get_range(self, path: str, start: int, length: int) -> Data:
        """See `Objects.get_range`."""
        try:
            return await self._read(path, start=start, end=start + length)
        except FileNotFoundError as error:
            raise MissingObjectError(f"{self.name}/{path}: there is no such object.") from error
        except Exception as error:
            raise self._failed(path, error) from error

    async def _read(self, path: str, **part: int) -> bytes:
        try:
            return bytes(await self._call("cat_file", self._path(path), **part))
        except Exception as error:
            if type(error).__name__ != _DAMAGED:
                raise
            return bytes(await self._call("cat_file", self._path(path), **part))

    async def put(self, path: str, data: Parts) -> None:
        """See `Objects.put`."""
        try:
            await self._make_parent(path)
            await self._call("pipe_file", self._path(path), joined(data))
        except Exception as error:
            raise self._failed(path, error) from error

    async def create(self, path: str, data: bytes) -> bool:
        """See `Objects.create`; where `create_is_atomic` is False this looks first and then writes."""
        try:
            if not self.create_is_atomic:
                if await self._call("exists", self._path(path)):
                    return False
                await self._make_parent(path)
                await self._call("pipe_file", self._path(path), data)
                return True
            await self._call("pipe_file", self._path(path), data, mode="create")
        except FileExistsError:
            return False
        except Exception as error:
            if _status(error) in _CONDITION_STATUS:
                return False
            raise self._failed(path, error) from error
        return True

    async def _make_parent(self, path: str) -> None:
        if not self.create_is_atomic:
            await self._call("makedirs", self._path(path).rpartition("/")[0], exist_ok=True)

    async def list(self, prefix: str, *, limit: int | None = None) -> Sequence[ObjectInfo]:
        """See `Objects.list`."""
        try:
            found = await self._call("find", self._path(prefix.rstrip("/")), detail=True)
        except FileNotFoundError as error:
            if "bucket does not exist" in str(error):
                raise self._failed(prefix, error) from error
            return []
        except Exception as error:
            raise self._failed(prefix, error) from error
        infos = []
        for path, info in found.items():
            relative = path.lstrip("/").removeprefix(self._root.lstrip("/")).lstrip("/")
            is_folder = info.get("type") == "directory"  # which s3fs finds where a prefix was emptied
            if relative.startswith(prefix) and not is_folder:
                infos.append(ObjectInfo(relative, int(info.get("size") or 0), _modified(info)))
        return sorted(infos)[:limit]

    async def delete(self, paths: Sequence[str]) -> None:
        """See `Objects.delete`."""
        for path in paths:
            try:
                await self._call("rm_file", self._path(path))
            except FileNotFoundError:
                continue
            except Exception as error:
                raise self._failed(path, error) from error

    def _failed(self, path: str, error: Exception) -> StorageError:
        where = f"{self.name}/{path}"
        text = str(error) or type(error).__name__
        denied = isinstance(error, PermissionError) or _status(error) in _ACCESS_CODES
        if denied or "bucket" in text.lower() or "credentials" in text.lower():
            return AccessError(
                f"{where}: {text}. Check that the bucket exists and that the credentials may use it."
            )
        return StorageError(
            f"{where}: {text}. Check the endpoint and the network; what was committed before is safe."
        )


def _modified(info: dict[str, Any]) -> float:
    for field in ("LastModified", "last_modified", "mtime", "created"):
        value = info.get(field)
        if value is not None:
            return float(value.timestamp()) if hasattr(value, "timestamp") else float(value)
    return 0.0


def _status(error: BaseException | None) -> int | None:
    """Find the HTTP status behind an OSError of s3fs, gcsfs or adlfs."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
        for field in ("status", "code", "status_code"):
            value = getattr(error, field, None)
            if isinstance(value, int):
                return value
        error = error.__cause__ or error.__context__
    return None


def _close_later(session: Any, loop: asyncio.AbstractEventLoop, process: int) -> None:
    """Close the connections of a storage that nobody holds any more; a forked child leaves those of its parent."""
    if os.getpid() == process and loop.is_running():
        asyncio.run_coroutine_threadsafe(session.__aexit__(None, None, None), loop)
