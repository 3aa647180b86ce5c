"""What can be done with the versions of a store: history, tags, branches, past versions, what differs between them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import zarr

from zarrvec.engine.bridge import run_sync
from zarrvec.engine.engine import Engine
from zarrvec.engine.listing import list_entries
from zarrvec.engine.reader import Request
from zarrvec.engine.version import Version, View, open_version
from zarrvec.errors import OptionError, ReadOnlyError
from zarrvec.faces.renumbering import indexes_among, with_coverage
from zarrvec.faces.store import ZarrVecStore
from zarrvec.faces.targets import repository_of
from zarrvec.format.commit import Commit
from zarrvec.repository import Repository
from zarrvec.types import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitInfo:
    """One commit of the history."""

    number: int
    """Number; names the commit in ``at=``."""
    id: str
    """Write id, 32 hexadecimal digits; 8 or more of them name the commit too."""
    time: datetime
    """When it was made, by the writer's clock, UTC."""
    author: str
    """Who made it."""
    message: str
    """Why; empty for an automatic commit."""
    automatic: bool
    """Whether a single call made it."""


def history(target: Any, *, limit: int | None = None) -> list[CommitInfo]:
    """List the commits of a store's branch, the newest first.

    Parameters
    ----------
    target
        A zarr group, array or store on a zarrvec store, or its URL.
    limit
        How many at most.
    """
    repository, _ = repository_of(target)
    return [_info(commit) for commit in run_sync(_history(repository, limit))]


async def _history(repository: Repository, limit: int | None) -> list[Commit]:
    commits: list[Commit] = []
    engine = await repository.engine()
    async for commit in engine.history():
        if limit is not None and len(commits) >= limit:
            break
        commits.append(commit)
    return commits


def tag(target: Any, name: str, *, at: str | int | datetime | None = None) -> CommitInfo:
    """Give a version a fixed name, by default the newest one.

    Raises
    ------
    ConflictError
        If the name stands for another version.
    """
    return _name(target, at, lambda engine, commit: engine.tag(name, commit))


def branch(target: Any, name: str, *, at: str | int | datetime | None = None) -> CommitInfo:
    """Begin a branch at a version, by default the newest one; open it with the option ``branch``.

    Raises
    ------
    ConflictError
        If there is a branch of that name.
    """
    return _name(target, at, lambda engine, commit: engine.branch(name, commit))


def _name(
    target: Any, at: str | int | datetime | None, give: Callable[[Engine, Commit], Awaitable[None]]
) -> CommitInfo:
    repository, _ = repository_of(target)

    async def make() -> Commit:
        commit = await _commit_of(repository, at)
        await give(await repository.engine(), commit)
        return commit

    return _info(run_sync(make()))


async def _commit_of(repository: Repository, at: str | int | datetime | None) -> Commit:
    engine = await repository.engine()
    version = await engine.resolve(at) if at is not None else await repository.version()
    if version.commit is None:
        raise OptionError(f"{repository.place.name}: there is no commit yet; write something first.")
    return version.commit


def at(target: Any, ref: str | int | datetime) -> Any:
    """Open a group, array or store as it was at a version.

    Parameters
    ----------
    target
        A zarr group, array or store on a zarrvec store, or its URL.
    ref
        A commit's number or the start of its id, a tag, or a time.

    Returns
    -------
    Array, Group or ZarrVecStore
        Read-only, of the kind that was given; a URL gives what lies there.

    Raises
    ------
    RefNotFoundError
        If there is no such version.
    """
    repository, path = repository_of(target)
    pinned = Repository(repository.place, at=ref, trace=repository.trace)
    run_sync(pinned.version())
    store = ZarrVecStore(pinned, read_only=True)
    if isinstance(target, str | zarr.Array | zarr.Group):
        return zarr.open(store, path=path or None, mode="r")
    return ZarrVecStore(pinned, path, read_only=True)


def diff(target: Any, old: str | int | datetime, new: str | int | datetime | None = None) -> dict[str, str]:
    """Compare two versions key by key.

    Returns
    -------
    dict
        Key to ``"added"``, ``"changed"`` or ``"deleted"``, for keys below the target.
    """
    repository, path = repository_of(target)

    async def compare() -> dict[str, str]:
        engine = await repository.engine()
        before, after = [
            await _list(engine, open_version(await _commit_of(repository, ref)), path) for ref in (old, new)
        ]
        changes = dict.fromkeys(before.entries.keys() - after.entries.keys(), "deleted")
        changes |= dict.fromkeys(after.entries.keys() - before.entries.keys(), "added")
        changes |= dict.fromkeys(await _changed(engine, before, after), "changed")
        return dict(sorted(changes.items()))

    return run_sync(compare())


def revert(target: Any, ref: str | int | datetime, *, message: str = "") -> CommitInfo:
    """Make the newest version equal to a past one, by a new commit; nothing of the history is lost.

    Raises
    ------
    ConflictError
        If others commit to the same keys meanwhile.
    """
    repository, path = repository_of(target)
    if path:
        raise OptionError(f"{path!r} is a part of a store; revert works on the whole store.")
    if repository.at is not None:
        raise ReadOnlyError(
            f"{repository.place.name}: opened at {repository.at!r}, and a past version can't be written."
        )

    async def restore() -> Commit:
        engine = await repository.engine()
        past = await engine.resolve(ref)
        current = await engine.heads.newest()
        then, now = [await _list(engine, version, "") for version in (past, current)]
        wanted, there = then.entries, now.entries
        staging = engine.stage(current)
        rewritten = {*(wanted.keys() - there.keys()), *await _changed(engine, then, now)}
        renumbered: dict[str, bytes] = {}
        for index in indexes_among(wanted):
            found = await repository.read([Request(key) for key in index], View(version=past))
            values = {
                key: bytes(value.data) for key, value in zip(index, found, strict=True) if value is not None
            }
            renumbered.update(with_coverage(index, values, wanted, rewritten.__contains__))
        for key in {*rewritten, *renumbered}:
            staging.expect(key, there[key].generation if key in there else 0)
            staging.place(key, wanted[key])
        for key, value in renumbered.items():
            await staging.put(key, value)
        for key in there.keys() - wanted.keys():
            staging.expect(key, there[key].generation)
            staging.delete(key)
        staging.refer({**past.packs(), **current.packs()})
        reason = message or f"Revert to commit {past.number}"
        version = await repository.commit(staging, message=reason, automatic=False)
        if version.commit is None:
            raise OptionError(f"{repository.place.name}: there is no commit yet.")
        return version.commit

    return _info(run_sync(restore()))


class _Listed(NamedTuple):
    view: View
    entries: dict[str, Entry]
    """By key, those that are there."""


async def _list(engine: Engine, version: Version, path: str) -> _Listed:
    view = View(version=version)
    return _Listed(view, {key: entry async for key, entry in list_entries(engine.reader, view, path)})


async def _changed(engine: Engine, before: _Listed, after: _Listed) -> list[str]:
    """Return the keys of both that have another value.

    The number of the commit that wrote a value tells, but commits of two branches may have one number. Then a value is
    the same if it stands in the same place, and else it is read: it may have moved into a pack.
    """
    changed: list[str] = []
    unsure: list[str] = []
    for key, entry in after.entries.items():
        known = before.entries.get(key)
        if known is None or known == entry:
            continue
        alike = (known.generation, known.length) == (entry.generation, entry.length)
        (unsure if alike else changed).append(key)
    requests = [Request(key) for key in unsure]
    for key, one, other in zip(
        unsure, await engine.read(before.view, requests), await engine.read(after.view, requests), strict=True
    ):
        if one is None or other is None or one.data != other.data:
            changed.append(key)
    return changed


def _info(commit: Commit) -> CommitInfo:
    return CommitInfo(
        number=commit.number,
        id=commit.write_id.hex(),
        time=datetime.fromtimestamp(commit.time_us / 1e6, UTC),
        author=commit.author,
        message=commit.message,
        automatic=commit.automatic,
    )
