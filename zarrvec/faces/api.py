"""What can be done with a store besides what zarr does: transactions, append, history, tags, branches, past versions."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import zarr

from zarrvec.engine.bridge import run_sync
from zarrvec.engine.engine import Engine
from zarrvec.engine.outcomes import StaleError
from zarrvec.engine.reader import Request
from zarrvec.engine.version import View, open_version
from zarrvec.errors import ConflictError, OptionError, ReadOnlyError
from zarrvec.faces.pipeline import REDO_LIMIT
from zarrvec.faces.renumbering import indexes_among, with_coverage
from zarrvec.faces.store import ZarrVecStore
from zarrvec.faces.targets import repository_and_key, repository_of
from zarrvec.format.commit import Commit
from zarrvec.repository import Repository, Transaction

T = TypeVar("T")


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


def transaction(target: Any, message: str = "", *, author: str = "") -> Transaction:
    """Make many calls one commit.

    Parameters
    ----------
    target
        A zarr group, array or store on a zarrvec store, or its URL.
    message
        Why; kept in the history.
    author
        Who; by default the user of this process.

    Returns
    -------
    Transaction
        To be used in a ``with``. It belongs to the thread or task that opens it.

    Raises
    ------
    ConflictError
        At the end, if others changed what was read and written here; nothing landed.

    Examples
    --------
    >>> import tempfile, numpy as np, zarr, zarrvec
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     root = zarr.open_group(f"zarrvec://{folder}/data.zarr", mode="a")
    ...     with zarrvec.transaction(root, message="first import"):
    ...         a = root.create_array("a", data=np.array([1, 2, 3]))
    ...         b = root.create_array("b", data=np.array([4, 5, 6]))
    ...     [commit.message for commit in zarrvec.history(root)][0]
    'first import'
    """
    return Transaction(repository_of(target)[0], message=message, author=author)


def append(array: zarr.Array[Any], data: npt.ArrayLike, axis: int = 0) -> tuple[int, ...]:
    """Append data to an array in one commit; of two that append at the same time both land, one after the other.

    Parameters
    ----------
    array
        An array on a zarrvec store; it sees the new shape afterwards.
    data
        Of the array's shape, except along `axis`.
    axis
        Along which the array grows.

    Returns
    -------
    tuple of int
        The new shape.

    Raises
    ------
    ConflictError
        If others appended so often meanwhile that it did not succeed.

    Examples
    --------
    >>> import tempfile, numpy as np, zarr, zarrvec
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     array = zarr.create_array(f"zarrvec://{folder}/data.zarr", shape=(0, 4), chunks=(10, 4), dtype="i4")
    ...     zarrvec.append(array, [[1, 2, 3, 4]])
    (1, 4)
    """
    repository_of(array)
    values = np.asarray(data)
    return commit_once(array, lambda: append_once(array, values, axis))


def commit_once(target: Any, function: Callable[[], T]) -> T:
    """Call a function whose writes are one commit, again as long as others change meanwhile what it reads.

    In an open transaction its writes are part of that. On a store that isn't ours it is just called. If nothing is committed,
    an array has the shape that it had.

    Raises
    ------
    ConflictError
        If others were faster each time.
    """
    if repository_and_key(target.store_path.store, target.store_path.path) is None:
        return function()
    repository, _ = repository_of(target)
    if repository.transaction is not None:
        return function()
    shape, has_landed = _shape_of(target), False
    try:
        for _ in range(REDO_LIMIT):
            try:
                with Transaction(repository, automatic=True):
                    result = function()
            except StaleError:
                run_sync(_look_again(repository))
            else:
                has_landed = True
                return result
    finally:
        if not has_landed:
            _take_shape(target, shape)
    raise ConflictError(
        f"{target.store_path}: others changed it {REDO_LIMIT} times meanwhile; let fewer write at once."
    )


def newest_of(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Open an array anew, as it is by now."""
    place = array.store_path
    return zarr.open_array(place.store, path=place.path, mode="r+", zarr_format=array.metadata.zarr_format)


def append_once(
    array: zarr.Array[Any], values: npt.NDArray[Any], axis: int, newest: zarr.Array[Any] | None = None
) -> tuple[int, ...]:
    """Append in the newest version, as a part of a commit; the array sees the new shape afterwards.

    Parameters
    ----------
    newest
        The array as `newest_of` returned it, if that was asked already.
    """
    newest = newest_of(array) if newest is None else newest
    shape: tuple[int, ...] = newest.append(values, axis=axis)
    _take_shape(array, _shape_of(newest))
    return shape


def _shape_of(array: zarr.Array[Any]) -> dict[str, Any]:
    """Return what a handle knows of its array that changes with the shape."""
    known = array.async_array
    return {name: getattr(known, name) for name in ("metadata", "_chunk_grid") if hasattr(known, name)}


def _take_shape(array: zarr.Array[Any], shape: dict[str, Any]) -> None:
    for name, value in shape.items():
        object.__setattr__(array.async_array, name, value)


def send_ahead(array: zarr.Array[Any]) -> None:
    """Begin to upload what was written in the open transaction, if there is one: something slow comes before its end."""
    found = repository_and_key(array.store_path.store, array.store_path.path)
    transaction = None if found is None else found[0].transaction
    if transaction is not None:
        run_sync(transaction.staging.send_ahead())


async def _look_again(repository: Repository) -> None:
    await (await repository.engine()).heads.newest()


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
        from zarrvec.engine.listing import list_entries

        engine = await repository.engine()
        views = [View(version=open_version(await _commit_of(repository, ref))) for ref in (old, new)]
        before, after = [
            {key: entry.generation async for key, entry in list_entries(engine.reader, view, path)}
            for view in views
        ]
        changes = {key: "deleted" for key in before if key not in after}
        for key, generation in after.items():
            if key not in before:
                changes[key] = "added"
            elif before[key] != generation:
                changes[key] = "changed"
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
        from zarrvec.engine.listing import list_entries

        engine = await repository.engine()
        past = await engine.resolve(ref)
        current = await engine.heads.newest()
        wanted = {row[0]: row[1] async for row in list_entries(engine.reader, View(version=past), "")}
        there = {row[0]: row[1] async for row in list_entries(engine.reader, View(version=current), "")}
        staging = engine.stage(current)
        restored = [
            key
            for key, entry in wanted.items()
            if key not in there or there[key].generation != entry.generation
        ]
        rewritten = set(restored)
        renumbered: dict[str, bytes] = {}
        for index in indexes_among(wanted):
            found = await repository.read([Request(key) for key in index], View(version=past))
            values = {
                key: bytes(value.data) for key, value in zip(index, found, strict=True) if value is not None
            }
            renumbered.update(with_coverage(index, values, wanted, rewritten.__contains__))
        for key in {*restored, *renumbered}:
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


def _info(commit: Commit) -> CommitInfo:
    return CommitInfo(
        number=commit.number,
        id=commit.write_id.hex(),
        time=datetime.fromtimestamp(commit.time_us / 1e6, UTC),
        author=commit.author,
        message=commit.message,
        automatic=commit.automatic,
    )
