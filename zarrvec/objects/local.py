"""How do local files serve as an object storage?

An object is a file; it is written under a temporary name and then linked (`create`) or renamed (`put`) to its own, so
that no reader sees a part of it and of many creators exactly one wins. Plain system calls, so that a forked child goes
on using it (``specs/decisions/0002-local-files.md``).
"""

import asyncio
import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from zarrvec.errors import AccessError, MissingObjectError, NotAStoreError, StorageError
from zarrvec.objects.protocol import Data, ObjectInfo, Parts

TEMPORARY: Final = ".tmp-"
_INLINE_READ_BYTES: Final = 256 << 10
"""Reads up to this size are done at once: handing them to a thread costs more than they do."""


class LocalObjects:
    """Objects below a directory, which is made by the first write.

    Parameters
    ----------
    root
        Absolute path of the directory.
    sync
        Whether files are flushed to the device before a write returns: then what was written survives a loss of power
        and not only the end of the process.
    """

    create_is_atomic = True
    create_refusals_are_final = True

    def __init__(self, root: str, *, sync: bool = False) -> None:
        self._root = Path(root)
        self._sync = sync
        self.name = str(root)

    async def get(self, path: str) -> Data | None:
        """See `Objects.get`."""
        try:
            return await self._read(path, 0, None)
        except MissingObjectError:
            return None

    async def get_range(self, path: str, start: int, length: int) -> Data:
        """See `Objects.get_range`."""
        return await self._read(path, start, length)

    async def put(self, path: str, data: Parts) -> None:
        """See `Objects.put`."""
        await asyncio.to_thread(self._write, path, data, create=False)

    async def create(self, path: str, data: bytes) -> bool:
        """See `Objects.create`."""
        return await asyncio.to_thread(self._write, path, data, create=True)

    async def list(self, prefix: str, *, limit: int | None = None) -> Sequence[ObjectInfo]:
        """See `Objects.list`."""
        return await asyncio.to_thread(self._list, prefix, limit)

    async def delete(self, paths: Sequence[str]) -> None:
        """See `Objects.delete`."""
        await asyncio.to_thread(self._delete, paths)

    async def _read(self, path: str, start: int, length: int | None) -> bytes:
        try:
            descriptor = os.open(self._root / path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingObjectError(f"{self._root / path}: there is no such file.") from error
        except OSError as error:
            raise self._failed(path, error) from error
        try:
            wanted = os.fstat(descriptor).st_size if length is None else length
            if wanted <= _INLINE_READ_BYTES:
                return self._pread(descriptor, start, wanted)
            return await asyncio.to_thread(self._pread, descriptor, start, wanted)
        except OSError as error:
            raise self._failed(path, error) from error
        finally:
            os.close(descriptor)

    @staticmethod
    def _pread(descriptor: int, start: int, length: int) -> bytes:
        data = os.pread(descriptor, length, start)
        if len(data) == length or not data:
            return data
        parts = [data]
        got = len(data)
        while got < length and (more := os.pread(descriptor, length - got, start + got)):
            parts.append(more)
            got += len(more)
        return b"".join(parts)

    def _write(self, path: str, data: Parts, *, create: bool) -> bool:
        target = self._root / path
        temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        try:
            self._write_temporary(temporary, data)
            if create:
                os.link(temporary, target)
            else:
                temporary.replace(target)
            if self._sync:
                self._flush_directory(target.parent)
        except FileExistsError:
            return False
        except OSError as error:
            raise self._failed(path, error) from error
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _write_temporary(self, temporary: Path, data: Parts) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(temporary, flags, 0o666)
        except FileNotFoundError:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, flags, 0o666)
        try:
            for part in [data] if isinstance(data, bytes) else data:
                view = memoryview(part)
                while view:
                    view = view[os.write(descriptor, view) :]
            if self._sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @staticmethod
    def _flush_directory(directory: Path) -> None:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _list(self, prefix: str, limit: int | None) -> Sequence[ObjectInfo]:
        found = []
        try:
            for path in self._walk(self._root / prefix):
                found.append(path)
                if limit is not None and len(found) >= limit:
                    break
        except NotADirectoryError as error:
            raise NotAStoreError(f"{self._root}: is a file, expected a zarrvec store or nothing.") from error
        except OSError as error:
            raise self._failed(prefix, error) from error
        return found

    def _walk(self, directory: Path) -> Iterator[ObjectInfo]:
        """Walk files in the order of their paths: a directory stands where its name and a slash do."""
        try:
            with os.scandir(directory) as scan:
                items = sorted((item.name + "/" * item.is_dir(), item) for item in scan)
        except FileNotFoundError:
            return
        for name, item in items:
            if name.endswith("/"):
                yield from self._walk(Path(item.path))
            elif not name.startswith(TEMPORARY):
                try:
                    status = item.stat()
                except FileNotFoundError:
                    continue
                path = Path(item.path).relative_to(self._root).as_posix()
                yield ObjectInfo(path, status.st_size, status.st_mtime)

    def _delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            try:
                (self._root / path).unlink(missing_ok=True)
            except OSError as error:
                raise self._failed(path, error) from error

    def _failed(self, path: str, error: OSError) -> StorageError:
        where = self._root / path
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return AccessError(
                f"{where}: {error.strerror}. Check the directory's permissions, or open it read-only."
            )
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageError(
                f"{where}: {error.strerror}. Nothing was committed; free space and write again."
            )
        return StorageError(f"{where}: {error.strerror or error}.")
