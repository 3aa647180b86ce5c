"""What does fsspec see? A filesystem whose files are the keys of one store.

``zarrvec::s3://bucket/data.zarr`` names a store on S3, ``zarrvec://path`` one in a local directory, and
``zarrvec://group::s3://bucket/data.zarr`` a path inside the former.
"""

import os
from collections.abc import Sequence
from typing import Any

from fsspec.asyn import AsyncFileSystem, sync

from zarrvec.engine.bridge import run
from zarrvec.engine.reader import ByteRange, Request
from zarrvec.errors import KeyNameError
from zarrvec.faces.config import use_pipeline
from zarrvec.faces.file import ZarrVecFile
from zarrvec.faces.folders import delete_folders
from zarrvec.faces.location import repository_from, split_local
from zarrvec.faces.renumbering import INDEX_DOCUMENT, without_coverage
from zarrvec.repository import Repository, StaleError


class ZarrVecFileSystem(AsyncFileSystem):
    """An fsspec filesystem over one zarrvec store.

    Parameters
    ----------
    fo, target_protocol, target_options
        Where the store is, as fsspec's chained URLs give it.
    root, prefix
        Where the store is, for ``zarrvec://path``: its absolute path, and how the URL wrote it.
    **options
        ``branch``, ``at``, ``max_staleness``, ``backend``, ``pack_bytes``, ``unsafe_single_writer``, ``sync``;
        those of fsspec.

    Raises
    ------
    OptionError
        If an option is unknown or of the wrong type.

    Examples
    --------
    >>> import fsspec, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = fsspec.get_mapper(f"zarrvec://{folder}/data")
    ...     files["a/b"] = b"value"
    ...     dict(files)
    {'a/b': b'value'}
    """

    protocol: str | tuple[str, ...] = "zarrvec"
    cachable = False  # every handle remembers which documents it has read
    root_marker = ""
    mirror_sync_methods = True

    def __init__(
        self,
        fo: str | None = None,
        target_protocol: str | None = None,
        target_options: dict[str, Any] | None = None,
        root: str | None = None,
        prefix: str | None = None,
        **options: Any,
    ) -> None:
        fsspec_options = {
            name: options[name] for name in ("asynchronous", "loop", "batch_size") if name in options
        }
        super().__init__(**fsspec_options)
        self._prefix = (
            ""
            if fo is not None or target_protocol is not None
            else (prefix if prefix is not None else root or "")
        )
        self.repository: Repository = repository_from(fo, target_protocol, target_options, root, options)
        use_pipeline()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        path = os.fspath(path)
        if path.startswith("zarrvec::"):
            return ""
        path = path.removeprefix("zarrvec://")
        return path if path == "/" else path.rstrip("/")

    @staticmethod
    def _get_kwargs_from_urls(url: str) -> dict[str, Any]:
        path = ZarrVecFileSystem._strip_protocol(url)
        return split_local(path)._asdict() if path else {}

    def __reduce__(self) -> Any:
        rebuild, arguments = super().__reduce__()[:2]
        return rebuild, arguments, {"repository": self.repository}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.repository = state["repository"]

    # -- paths ----------------------------------------------------------------------------------------------------

    def key_of(self, path: str) -> str:
        """Return the key that a path names; empty for the root."""
        path = self._strip_protocol(path)
        if self._prefix:
            if path == self._prefix:
                return ""
            if path.startswith(self._prefix + "/"):
                return path[len(self._prefix) + 1 :].strip("/")
            absolute = os.path.abspath(path)  # noqa: PTH100
            root = self.repository.place.root
            if absolute == root or absolute.startswith(root + "/"):
                return absolute[len(root) + 1 :]
            raise KeyNameError(
                f"{path!r} lies outside of the store {root!r}; open the store that it lies in."
            )
        return path.strip("/")

    def _path_of(self, key: str, like: str) -> str:
        if self._prefix:
            return f"{self._prefix}/{key}" if key else self._prefix
        return "/" + key if like.startswith("/") else key

    # -- reading --------------------------------------------------------------------------------------------------

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        found = await run(self.repository.read_one(Request(self.key_of(path), _byte_range(start, end))))
        if found is None:
            raise FileNotFoundError(path)
        if end is not None and end < 0:
            return (await self._cat_file(path))[start:end]
        return found.data

    async def _cat_ranges(
        self,
        paths: Sequence[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        del max_gap, batch_size
        count = len(paths)
        starts = starts if isinstance(starts, list | tuple) else [starts] * count
        ends = ends if isinstance(ends, list | tuple) else [ends] * count
        requests = [
            Request(self.key_of(path), _byte_range(start, end))
            for path, start, end in zip(paths, starts, ends, strict=True)
        ]
        found = await run(self.repository.read(requests))
        results: list[Any] = [
            FileNotFoundError(path) if value is None else value.data
            for path, value in zip(paths, found, strict=True)
        ]
        if on_error == "raise" and (missing := next((r for r in results if isinstance(r, Exception)), None)):
            raise missing
        return results

    async def _cat(
        self,
        path: Any,
        recursive: bool = False,
        on_error: str = "raise",
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        del batch_size, kwargs
        paths = await self._expand_path(path, recursive=recursive)
        values = await self._cat_ranges(paths, None, None, on_error="return")
        if on_error == "raise" and (missing := next((v for v in values if isinstance(v, Exception)), None)):
            raise missing
        if len(paths) > 1 or isinstance(path, list) or paths[0] != self._strip_protocol(path):
            return {
                name: value
                for name, value in zip(paths, values, strict=True)
                if on_error != "omit" or not isinstance(value, Exception)
            }
        return values[0]

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        key = self.key_of(path)
        name = self._path_of(key, path)
        if key:
            entry = (await run(self._locate([key])))[0]
            if entry is not None:
                return {"name": name, "size": entry.length, "type": "file", "generation": entry.generation}
            if await run(self.repository.is_empty(key)):
                raise FileNotFoundError(path)
        return {"name": name, "size": 0, "type": "directory"}

    async def _locate(self, keys: list[str]) -> list[Any]:
        return await self.repository.locate(await self.repository.view(), keys)

    async def _exists(self, path: str, **_: Any) -> bool:
        key = self.key_of(path)
        if not key or (await run(self._locate([key])))[0] is not None:
            return True
        return not await run(self.repository.is_empty(key))

    async def _ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        key = self.key_of(path)
        children = await run(self.repository.list_children(key))
        if not children:
            info = await self._info(path)
            infos = [info] if info["type"] == "file" else []
        else:
            infos = [
                {
                    "name": self._path_of(f"{key}/{name}" if key else name, path),
                    "size": 0 if entry is None else entry.length,
                    "type": "directory" if entry is None else "file",
                }
                for name, entry in sorted(children.items())
            ]
        return infos if detail else [info["name"] for info in infos]

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **kwargs: Any,
    ) -> Any:
        detail = kwargs.pop("detail", False)
        key = self.key_of(path)
        infos: dict[str, dict[str, Any]] = {}
        depth = key.count("/") + 1 if key else 0
        for name, entry in await run(self.repository.list_keys(key)):
            parts = name.split("/")
            if withdirs:
                for level in range(depth + 1, len(parts)):
                    if maxdepth is None or level - depth <= maxdepth:
                        folder = self._path_of("/".join(parts[:level]), path)
                        infos.setdefault(folder, {"name": folder, "size": 0, "type": "directory"})
            if maxdepth is None or len(parts) - depth <= maxdepth:
                shown = self._path_of(name, path)
                infos[shown] = {"name": shown, "size": entry.length, "type": "file"}
        if not infos and key and not path.endswith("/"):
            entry = (await run(self._locate([key])))[0]
            if entry is not None:
                shown = self._path_of(key, path)
                infos[shown] = {"name": shown, "size": entry.length, "type": "file"}
        elif withdirs and key:
            shown = self._path_of(key, path)
            infos.setdefault(shown, {"name": shown, "size": 0, "type": "directory"})
        names = sorted(infos)
        return {name: infos[name] for name in names} if detail else names

    # -- writing --------------------------------------------------------------------------------------------------

    async def _pipe_file(self, path: str, value: Any, mode: str = "overwrite", **_: Any) -> None:
        key = self.key_of(path)
        if mode == "create":
            await run(self._create(key, bytes(value)))
        else:
            await run(self.repository.write({key: bytes(value)}))

    async def _create(self, key: str, value: bytes) -> None:
        """Write a key that must not be there; of many that try, one succeeds."""
        staging = await self.repository.begin_reading()
        if (await self.repository.read_to_write(staging, [key]))[0] is not None:
            raise FileExistsError(key)
        await self.repository.stage(staging, {key: value})
        try:
            await self.repository.finish(staging)
        except StaleError:
            raise FileExistsError(key) from None

    async def _pipe(self, path: Any, value: Any = None, batch_size: int | None = None, **_: Any) -> None:
        del batch_size
        values = {path: value} if isinstance(path, str) else path
        await run(self.repository.write({self.key_of(name): bytes(data) for name, data in values.items()}))

    async def _rm_file(self, path: str, **_: Any) -> None:
        key = self.key_of(path)
        if (await run(self._locate([key])))[0] is None:
            raise FileNotFoundError(path)
        await run(self.repository.write(deletes=[key]))

    async def _rm(
        self,
        path: Any,
        recursive: bool = False,
        batch_size: int | None = None,
        maxdepth: int | None = None,
        with_indexes: bool = True,
        **_: Any,
    ) -> None:
        del batch_size
        if maxdepth is not None:
            paths = await self._expand_path(path, recursive=recursive, maxdepth=maxdepth)
            recursive = False
        elif isinstance(path, str) and not any(mark in path for mark in "*?["):
            paths = [path]
        else:
            paths = await self._expand_path(path, recursive=False)
        keys = [self.key_of(item) for item in paths]
        named = [key for key in keys if key]
        entries = await run(self._locate(named))
        there = [key for key, entry in zip(named, entries, strict=True) if entry is not None]
        if not recursive and not there and len(paths) == 1:
            raise FileNotFoundError(paths[0])
        clears = keys if recursive else []
        if clears and with_indexes:
            await run(delete_folders(self.repository, clears, deletes=there))
        elif clears or there:
            await run(self.repository.write(deletes=there, clears=clears))

    def mv(
        self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **_: Any
    ) -> None:
        """Move values. The vector index beside an array stays, and may be moved next."""
        if path1 != path2:
            self.copy(path1, path2, recursive=recursive, maxdepth=maxdepth, on_error="raise")
            sync(self.loop, self._rm, path1, recursive=recursive, with_indexes=False)

    async def _cp_file(self, path1: str, path2: str, **_: Any) -> None:
        if await self._isdir(path1):
            return
        data = await self._cat_file(path1)
        if path2.endswith(INDEX_DOCUMENT):  # the copy of its array is written by a commit of another number
            data = without_coverage(data)
        await self._pipe_file(path2, data)

    async def _put_file(self, lpath: str, rpath: str, mode: str = "overwrite", **_: Any) -> None:
        if os.path.isdir(lpath):  # noqa: PTH112
            return
        with open(lpath, "rb") as file:  # noqa: PTH123
            await self._pipe_file(rpath, file.read(), mode=mode)

    async def _get(self, rpath: Any, lpath: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(rpath, str) and not self._prefix:  # fsspec cuts at a "/", which a path at the top lacks
            slash = "/" if rpath.endswith("/") else ""
            rpath = "/" + self._strip_protocol(rpath).strip("/") + slash
        return await super()._get(rpath, lpath, *args, **kwargs)

    async def _get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        if await self._isdir(rpath):
            os.makedirs(lpath, exist_ok=True)  # noqa: PTH103
            return
        data = await self._cat_file(rpath)
        os.makedirs(os.path.dirname(lpath) or ".", exist_ok=True)  # noqa: PTH103, PTH120
        with open(lpath, "wb") as file:  # noqa: PTH123
            file.write(data)

    async def _mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Do nothing: folders are there as soon as a key lies below them."""

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: folders are there as soon as a key lies below them."""

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Make an empty file, or empty one unless `truncate` is False."""
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")

    def created(self, path: str) -> Any:
        """Not kept for single keys; `zarrvec log` tells when a version was made."""
        raise NotImplementedError(
            f"{path}: zarrvec keeps times of commits, not of keys; see zarrvec.history."
        )

    modified = created

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: Any = None,
        autocommit: bool = True,
        cache_options: Any = None,
        **kwargs: Any,
    ) -> "ZarrVecFile":
        if "x" in mode and self.exists(path):
            raise FileExistsError(path)
        return ZarrVecFile(
            self,
            path,
            mode,
            block_size or "default",
            autocommit=autocommit,
            cache_options=cache_options,
            **kwargs,
        )


def _byte_range(start: int | None, end: int | None) -> ByteRange:
    if start is None and end is None:
        return None
    if end is not None and end < 0:
        return None
    return start or 0, end
