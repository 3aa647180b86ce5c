"""What does one open store consist of, in this process? Everything here runs in the engine's own loop."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from zarrvec.engine.bridge import call_after_fork, call_before_stop
from zarrvec.engine.changes import Changes
from zarrvec.engine.committer import Committer
from zarrvec.engine.gatherer import Gatherer
from zarrvec.engine.heads import (
    Heads,
    branch_prefix,
    check_ref_name,
    commit_path,
    marker_path,
    read_commit,
    tag_path,
)
from zarrvec.engine.pruning import Pruner
from zarrvec.engine.reader import Found, Reader, Request
from zarrvec.engine.staging import Staging
from zarrvec.engine.tracing import Tracer
from zarrvec.engine.version import Version, View, open_version
from zarrvec.engine.writer import Writer
from zarrvec.errors import (
    AccessError,
    BackendUnsafeError,
    ConflictError,
    NotAStoreError,
    OptionError,
    RefNotFoundError,
    StorageError,
    ZarrVecError,
)
from zarrvec.format.commit import Commit, encode_commit
from zarrvec.layout.packing import PACK_BYTES
from zarrvec.objects.opening import open_objects
from zarrvec.objects.protocol import Closable, Objects

PROBE_PREFIX = "refs/probe/"
_PROBES: Final = 3
"""So often it is tried whether the storage refuses a second create, if it fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a store is, and how it is reached and written; handles with equal places share an engine."""

    protocol: str
    """fsspec's name of the storage."""
    root: str
    """Bucket and path, or absolute local path."""
    options: dict[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """Options of the storage, spelled as its fsspec filesystem spells them."""
    branch: str = "main"
    backend: str = "obstore"
    pack_bytes: int = PACK_BYTES
    unsafe_single_writer: bool = False
    sync: bool = False
    identity: str = field(init=False, compare=False, repr=False)
    """What tells engines apart."""

    def __post_init__(self) -> None:
        """Make the identity once: it is looked at by every operation."""
        identity = repr((self.protocol, self.root, sorted(self.options.items(), key=repr), self.branch, self.backend,
                         self.pack_bytes, self.unsafe_single_writer, self.sync))  # fmt: skip
        object.__setattr__(self, "identity", identity)

    @property
    def name(self) -> str:
        """The place as a URL without options, for messages."""
        return self.root if self.protocol in ("file", "local") else f"{self.protocol}://{self.root}"


class Engine:
    """One store, opened on one branch. Make it with `engine_for`."""

    def __init__(self, place: Place, objects: Objects) -> None:
        self.place = place
        self.objects = objects
        self.reader = Reader(objects)
        self.gatherer = Gatherer(self.reader)
        self.writer = Writer(objects, self.reader, pack_bytes=place.pack_bytes)
        self.heads = Heads(objects, place.branch)
        self.committer = Committer(objects, self.heads, self.reader, self.writer, self._before_first_commit)
        self.pruner = Pruner(objects, self.heads)
        self.tracer = Tracer()
        self._background: set[asyncio.Task[None]] = set()
        self._looked_around = False

    async def current(self, *, checked_after: float, listed_after: float = -1.0) -> Version:
        """Return the newest version; if there is none, make sure that nothing else is here."""
        version = await self.heads.current(checked_after=checked_after, listed_after=listed_after)
        if not version.number and not self._looked_around:
            await self._look_around()
            self._looked_around = True
        return version

    async def _look_around(self) -> None:
        """Refuse a place without commits that holds other objects."""
        there = [
            info.path
            for info in await self.objects.list("", limit=20)
            if not info.path.startswith((PROBE_PREFIX, branch_prefix(self.place.branch), "packs/"))
        ]
        if not there:
            return
        if there[0].startswith("refs/"):
            raise RefNotFoundError(
                f"{self.place.name}: there is a zarrvec store, but it has no branch {self.place.branch!r}. "
                "`zarrvec branch` lists and makes branches."
            )
        zarr = any(
            path.rpartition("/")[2] in ("zarr.json", ".zgroup", ".zarray", ".zmetadata") for path in there
        )
        what = "plain Zarr" if zarr else "something else"
        advice = (
            "Open it without 'zarrvec::', or copy it with `zarrvec pack SRC DST`."
            if zarr
            else "Choose an empty place."
        )
        raise NotAStoreError(
            f"{self.place.name}: holds {what} ({there[0]!r}), expected a zarrvec store or nothing. {advice}"
        )

    async def _before_first_commit(self) -> None:
        """Make sure that a store may be made here and that the storage refuses a second create."""
        self._looked_around = False
        await self.current(checked_after=-1.0)
        if self.place.unsafe_single_writer:
            return
        advice = (
            "Concurrent writers would lose data, so nothing was written. Use a storage with conditional writes, or pass "
            "'unsafe_single_writer': True in storage_options['zarrvec'] if exactly one process ever writes."
        )
        if not self.objects.create_is_atomic:
            raise BackendUnsafeError(
                f"{self.place.name}: this filesystem can't create an object only if it is absent. {advice}"
            )
        for tries_left in reversed(range(_PROBES)):
            path = f"{PROBE_PREFIX}{secrets.token_hex(8)}"
            try:
                is_unsafe = await self._can_be_created_twice(path)
            except AccessError:
                raise
            except StorageError:
                if not tries_left:
                    raise
                continue
            if is_unsafe:
                raise BackendUnsafeError(
                    f"{self.place.name}: the storage let {path!r} be created twice. {advice}"
                )
            if is_unsafe is not None:
                return
        raise BackendUnsafeError(
            f"{self.place.name}: the storage refused {_PROBES} times to create a new object. {advice}"
        )

    async def _can_be_created_twice(self, path: str) -> bool | None:
        """Return whether an object can; None if it can't be created once."""
        try:
            # who sends it again by himself is refused although it is there
            if not await self.objects.create(path, b"1") and await self.objects.get(path) != b"1":
                return None
            return await self.objects.create(path, b"2")
        finally:
            with suppress(StorageError):  # what is left of a probe does no harm
                await self.objects.delete([path])

    async def read(self, view: View, requests: Sequence[Request]) -> list[Found | None]:
        """Read values of one view."""
        return await self.reader.read(view, requests)

    def stage(self, version: Version) -> Staging:
        """Begin to gather writes on top of a version."""
        return Staging(self.writer, version)

    async def commit(self, changes: Changes) -> Version:
        """Land some changes."""
        version = await self.committer.commit(changes)
        if self.pruner.is_due(version.number):
            task = asyncio.ensure_future(self._prune())
            self._background.add(task)
            task.add_done_callback(self._background.discard)
        return version

    async def _prune(self) -> None:
        """Drop old automatic commits; a storage that fails now is asked again later."""
        with suppress(ZarrVecError):
            await self.pruner.prune()

    async def resolve(self, ref: str | int | datetime) -> Version:
        """Open the version that a reference names."""
        return open_version(await self.heads.resolve(ref))

    async def history(self) -> AsyncIterator[Commit]:
        """Yield the commits that the branch still has, the newest first."""
        for number in await self.heads.numbers():
            commit = await self.heads.read(number)
            if commit is not None:
                yield commit

    async def tag(self, name: str, commit: Commit) -> None:
        """Give a commit a fixed name.

        Raises
        ------
        ConflictError
            If the name is taken by another commit.
        OptionError
            If the name can't be used.
        """
        if check_ref_name("tag", name).isdecimal():
            raise OptionError(
                f"tag={name!r}: a name of digits only is a commit's number; put a letter before it."
            )
        path = tag_path(name)
        if await self.objects.create(path, encode_commit(commit)):
            return
        there = await read_commit(self.objects, path)
        if there is None or there.write_id != commit.write_id:
            raise ConflictError(
                f"{self.place.name}: the tag {name!r} exists and names another commit; choose another name."
            )

    async def branch(self, name: str, commit: Commit) -> None:
        """Begin a branch at a commit, which becomes its first.

        Raises
        ------
        ConflictError
            If there is a branch of that name.
        OptionError
            If the name can't be used.
        """
        check_ref_name("branch", name)
        if await self.objects.list(branch_prefix(name), limit=1):
            raise ConflictError(
                f"{self.place.name}: there is a branch {name!r} already; choose another name."
            )
        start = commit.write_id.hex().encode()
        marker = marker_path(name)
        if not await self.objects.create(marker, start) and await self.objects.get(marker) != start:
            raise ConflictError(
                f"{self.place.name}: the branch {name!r} was made by another at the same time."
            )
        await self.objects.create(commit_path(name, commit.number), encode_commit(commit))

    async def refs(self) -> tuple[list[str], list[str]]:
        """Return the names of all branches and tags."""
        paths = [info.path for info in await self.objects.list("refs/")]
        branches = {path.split("/")[2] for path in paths if path.startswith("refs/heads/")}
        tags = {path.removeprefix("refs/tags/") for path in paths if path.startswith("refs/tags/")}
        return sorted(branches), sorted(tags)


_ENGINES: dict[str, Engine] = {}
call_after_fork(_ENGINES.clear)


async def close_engines() -> None:
    """Forget all engines and close their connections: the next use of a store opens it anew."""
    while _ENGINES:
        _, engine = _ENGINES.popitem()
        if isinstance(engine.objects, Closable):
            await engine.objects.close()


call_before_stop(close_engines)


async def engine_for(place: Place) -> Engine:
    """Return the engine of a place, opening it if this process has none. Sends no request."""
    if place.pack_bytes < 1 << 10:
        raise OptionError(f"pack_bytes={place.pack_bytes}: expected at least 1024.")
    identity = place.identity
    engine = _ENGINES.get(identity)
    if engine is None:
        objects = open_objects(
            place.protocol, place.root, place.options, backend=place.backend, sync=place.sync
        )
        engine = _ENGINES[identity] = Engine(place, objects)
    return engine


def known_heads(place: Place) -> Heads | None:
    """Return what this process knows of the newest commits of a place; None if it has not been used."""
    engine = _ENGINES.get(place.identity)
    return None if engine is None else engine.heads


def known_tracer(place: Place) -> Tracer | None:
    """Return what counts the operations on a place in this process; None if it has not been used."""
    engine = _ENGINES.get(place.identity)
    return None if engine is None else engine.tracer
