"""How are the keys of any Zarr store copied into a zarrvec store: as they are, in key order, in bounded memory?"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol
from zipfile import is_zipfile

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, ZipStore

from zarrvec.cli.common import OURS
from zarrvec.engine.bridge import run, run_sync
from zarrvec.engine.listing import list_entries
from zarrvec.engine.reader import Request
from zarrvec.engine.version import View
from zarrvec.errors import NotAStoreError, OptionError
from zarrvec.faces.folders import delete_folders
from zarrvec.faces.location import split_local
from zarrvec.faces.renumbering import INDEX_DOCUMENT, indexes_among, with_coverage, without_coverage
from zarrvec.faces.store import ZarrVecStore
from zarrvec.faces.targets import open_store
from zarrvec.faces.urls import unknown_storages_named
from zarrvec.format.keys import METADATA_NAMES, is_metadata, sort_key
from zarrvec.repository import Repository, Transaction
from zarrvec.types import Entry

BATCH_BYTES: Final = 32 << 20
"""About what is read before it is handed on."""
BATCH_KEYS: Final = 4096
FIRST_BATCH_KEYS: Final = 8
READS_AT_ONCE: Final = 32

Progress = Callable[[int, int, int], None]
"""Called with the keys that are done, those there are, and bytes that are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What was copied."""

    keys: int
    documents: int
    value_bytes: int
    number: int
    """Of the commit."""


class Source(Protocol):
    """Where keys come from."""

    name: str

    def keys(self) -> list[str]:
        """List all keys."""
        ...

    async def read(self, keys: Sequence[str]) -> list[bytes]:
        """Read values."""
        ...

    async def renumbered(self) -> dict[str, bytes]:
        """Return what is to be written in place of values that go by the numbers of commits of the source."""
        ...


def open_source(url: str, options: dict[str, dict[str, Any]]) -> Source:
    """Open what is to be copied: a zarrvec store where the URL says so, or any store that zarr reads."""
    store = open_plain_or_ours(url, options)
    if isinstance(store, ZarrVecStore):
        return _OurSource(store)
    return _PlainSource(store, url)


def open_plain_or_ours(url: str, options: dict[str, dict[str, Any]], *, read_only: bool = True) -> Store:
    """Open a store: ours for ``zarrvec`` URLs and local paths inside one, else zarr's own.

    Options of storages that the URL does not name are left out, since two URLs may share one set.

    Raises
    ------
    FileNotFoundError
        If there is nothing at a local path.
    OptionError
        If it is a file, and is to be written to; or fsspec knows no such storage.
    NotAStoreError
        If it is a file, and no ZIP file.
    """
    if url.startswith(f"{OURS}:"):
        return open_store(url, options_for(url, options), read_only=read_only)
    if "://" not in url and "::" not in url:
        path = Path(url).expanduser()
        if Path(split_local(url).root, "refs", "heads").is_dir():
            return open_store(url, options_for(url, options), read_only=read_only)
        if not path.exists():
            raise FileNotFoundError(f"{url}: there is no such file or directory.")
        if not path.is_file():
            return LocalStore(path, read_only=read_only)
        if not read_only:
            raise OptionError(
                f"{url}: is a file; expected a directory or a URL, which can be changed in place."
            )
        if not is_zipfile(path):
            raise NotAStoreError(
                f"{url}: is a file, but no ZIP file; expected a directory, a ZIP file or a URL."
            )
        return ZipStore(path, read_only=True)
    protocol = url.partition("://")[0].partition("::")[0]
    with unknown_storages_named(url):
        return FsspecStore.from_url(url, storage_options=options.get(protocol) or None, read_only=read_only)


def options_for(url: str, options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the options of the storages that a URL names."""
    inner = url.removeprefix(f"{OURS}::").rpartition("::")[2].partition("://")[0]
    return {name: value for name, value in options.items() if name in (OURS, inner)}


class _OurSource:
    def __init__(self, store: ZarrVecStore) -> None:
        self._repository = store.repository
        self._prefix = store.path
        self._view = View(version=run_sync(store.repository.version()))
        self.name = repr(store)
        self.place = store.repository.place

    def keys(self) -> list[str]:
        return [*self._entries]

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        cut = len(self._prefix) + 1 if self._prefix else 0

        async def entries() -> dict[str, Entry]:
            reader = (await self._repository.engine()).reader
            return {key[cut:]: entry async for key, entry in list_entries(reader, self._view, self._prefix)}

        return run_sync(entries())

    async def read(self, keys: Sequence[str]) -> list[bytes]:
        full = [f"{self._prefix}/{key}" if self._prefix else key for key in keys]
        found = await run(self._repository.read([Request(key) for key in full], self._view))
        return [
            _there(key, None if value is None else value.data) for key, value in zip(keys, found, strict=True)
        ]

    async def renumbered(self) -> dict[str, bytes]:
        """Indexes cover in the copy, which is one commit, what they cover here."""
        told: dict[str, bytes] = {}
        for index in indexes_among(self._entries):
            values = dict(zip(index, await self.read(index), strict=True))
            told |= with_coverage(index, values, self._entries, lambda _: True)
        return told


class _PlainSource:
    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._slots = asyncio.Semaphore(READS_AT_ONCE)
        self.name = name

    def keys(self) -> list[str]:
        async def names() -> list[str]:
            return [key async for key in self._store.list()]

        return sync(names())

    async def read(self, keys: Sequence[str]) -> list[bytes]:
        return list(await asyncio.gather(*(self._read_one(key) for key in keys)))

    async def renumbered(self) -> dict[str, bytes]:
        """Nothing is known of what changed there since an index was built."""
        return {}

    async def _read_one(self, key: str) -> bytes:
        async with self._slots:
            value = await self._store.get(key, default_buffer_prototype())
        return _there(key, None if value is None else value.to_bytes())


def _there(key: str, data: bytes | None) -> bytes:
    if data is None:
        raise FileNotFoundError(
            f"{key!r}: was listed, but is gone. Something deletes from the source; copy again."
        )
    return data


def copy_store(
    source: Source,
    repository: Repository,
    prefix: str,
    *,
    overwrite: bool = False,
    message: str = "",
    on_progress: Progress | None = None,
) -> Copied:
    """Copy all keys in one commit; on an error nothing of it lands.

    Raises
    ------
    NotAStoreError
        If there is no Zarr in the source.
    OptionError
        If there is something where it is copied to.
    """
    if isinstance(source, _OurSource) and (source.place, source._prefix) == (repository.place, prefix):
        raise OptionError(f"{source.name}: is both source and destination; choose another destination.")
    is_empty = run_sync(repository.is_empty(prefix))
    if not is_empty and not overwrite:
        raise OptionError(
            f"{repository.place.name}: there is something already; expected an empty destination. "
            "Pass --overwrite to replace it, in one commit."
        )
    keys = _checked(source)
    with Transaction(repository, message=message or f"Pack {source.name}") as transaction:
        if not is_empty:
            run_sync(delete_folders(repository, [prefix]))
        value_bytes = sync(_copy(source, keys, repository, prefix, on_progress))
    return Copied(
        keys=len(keys),
        documents=sum(map(is_metadata, keys)),
        value_bytes=value_bytes,
        number=transaction.number or 0,
    )


def _checked(source: Source) -> list[str]:
    keys = source.keys()
    if any(key.startswith("refs/heads/") and key.endswith(".commit") for key in keys):
        raise NotAStoreError(f"{source.name}: is a zarrvec store; write its URL as {OURS}::{source.name}.")
    if not any(is_metadata(key) for key in keys):
        raise NotAStoreError(
            f"{source.name}: holds no Zarr, expected a key named {' or '.join(sorted(METADATA_NAMES))} among its {len(keys)}."
        )
    return sorted(keys, key=sort_key)


async def _copy(
    source: Source, keys: list[str], repository: Repository, prefix: str, on_progress: Progress | None
) -> int:
    """Read a batch while the one before is written; how many keys it has follows from how long they are."""
    done = value_bytes = 0
    renumbered = await source.renumbered()
    size = FIRST_BATCH_KEYS
    while done < len(keys):
        batch = keys[done : done + size]
        values = await source.read(batch)
        values = [
            renumbered.get(key) or (without_coverage(data) if key.endswith(INDEX_DOCUMENT) else data)
            for key, data in zip(batch, values, strict=True)
        ]
        puts = {f"{prefix}/{key}" if prefix else key: data for key, data in zip(batch, values, strict=True)}
        await run(repository.write(puts))
        batch_bytes = sum(map(len, values))
        value_bytes += batch_bytes
        done += len(batch)
        mean = max(batch_bytes / len(batch), 1)
        size = max(1, min(BATCH_KEYS, int(BATCH_BYTES / mean), 4 * size))
        if on_progress is not None:
            on_progress(done, len(keys), value_bytes)
    return value_bytes
