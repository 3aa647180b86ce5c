"""How does an array get other chunks and codecs? ``zarrvec.rechunk``."""

import operator
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import zarr
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, StorePath
from zarr.storage._common import make_store_path
from zarr.types import AnyArray

from zarrvec.adapt.plain import PlainJob
from zarrvec.adapt.source import Seen, see_plain, see_versioned
from zarrvec.adapt.target import KEEP, Wanted
from zarrvec.adapt.versioned import Job
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.version import View
from zarrvec.errors import OptionError, ReadOnlyError, TransactionError
from zarrvec.faces.cluster import Cluster
from zarrvec.faces.store import ZarrVecStore
from zarrvec.faces.targets import open_store, repository_and_key
from zarrvec.planner.plan import Plan
from zarrvec.repository import Repository
from zarrvec.search.build import Progress
from zarrvec.search.progress import progress_of

MEMORY_BYTES: Final = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rechunked:
    """What was done."""

    array: AnyArray
    """The array with its new chunks, newly opened. Handles that were open before raise `ConflictError`."""
    commit: int | None
    """Number of the commit that has it; None if nothing had to be done, and on other stores."""
    blocks: int
    """Blocks that this call copied."""
    passes: int
    """Times that it looked at the source: more than 1 if others changed it meanwhile."""
    resumed: bool
    """Whether it went on from what an earlier call had copied."""
    seconds: float


def rechunk(
    source: AnyArray | str,
    destination: Any = None,
    plan: Plan | None = None,
    *,
    chunks: Sequence[int] | str = KEEP,
    shards: Sequence[int] | str | None = KEEP,
    filters: Any = KEEP,
    compressors: Any = KEEP,
    serializer: Any = KEEP,
    overwrite: bool = False,
    memory_bytes: int = MEMORY_BYTES,
    client: Any = None,
    message: str = "",
    progress: Progress | bool = False,
    storage_options: dict[str, Any] | None = None,
) -> Rechunked:
    """Rewrite an array with other chunks and codecs: in place, in one commit, or into another place.

    Values, attributes, names of dimensions, fill value, data type, order and Zarr format stay.

    On a zarrvec store the array is copied beside, block by block, in commits of their own, under ``<name>.rechunk``. A
    call that ends early loses nothing: called again, it goes on. One commit at the end puts the copy in the array's place,
    so that readers see all of the old or all of the new. What others write into the array meanwhile is copied again, and
    is never lost. Older versions stay, and open by `zarrvec.at`. On other stores the copy needs a destination, its
    metadata are written last, and a call that ended early begins anew.

    Parameters
    ----------
    source
        An array on any store, or its URL.
    destination
        Where the copy lies, as zarr takes stores: the URL of the array, a `zarr.storage.StorePath`, a store. None rewrites
        the array in place, which takes a zarrvec store.
    plan
        Chunks and codecs, from `zarrvec.plan` or `zarrvec.replan`; and `Plan.pack_bytes`, for the packs that this call writes.
        Whatever the store is opened with, that is: an array whose chunks and codecs are the plan's already is left as it is,
        and what is written later goes into packs of the size that its store is opened with.
    chunks, shards, filters, compressors, serializer
        The same one by one, as `zarr.create_array` takes them; ``"keep"`` is what the array has.
    overwrite
        Whether what is at the destination may be replaced.
    memory_bytes
        Bound on the decoded cells held at once. Besides these a zarrvec store holds packs on their way, up to six times
        its ``pack_bytes`` or the plan's, and some hundred bytes for each chunk. Where chunks of both kinds cross one another and a block
        of them doesn't fit, chunks of the source are read more than once. With a client, of each of the workers' threads.
    client
        A `distributed.Client`: the workers of its dask cluster copy the blocks, and this call commits. They must reach source
        and destination as this process does.
    message
        Why; kept in the history.
    progress
        True shows a bar on stderr; or a function of a stage, the cells that are done, and those there are.
    storage_options
        For URLs.

    Returns
    -------
    Rechunked

    Raises
    ------
    OptionError
        If the array can't be stored so, memory doesn't suffice, or something is in the way; or workers don't reach the store.
    ConflictError
        If another call rechunks the array too, or others change it faster than it is copied. What was copied is kept.
    ReadOnlyError
        If the source is to be rewritten, but was opened read-only or at a past version.
    ClusterError
        If workers died, again and again.
    TransactionError
        In a transaction: it makes commits of its own.

    Examples
    --------
    >>> import tempfile, numpy as np, zarr, zarrvec
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     array = zarr.create_array(f"zarrvec://{folder}/data.zarr", data=np.arange(12).reshape(3, 4), chunks=(3, 1))
    ...     before = zarrvec.history(array)[0].number
    ...     done = zarrvec.rechunk(array, chunks=(1, 4))
    ...     done.array.chunks, done.array[2].tolist(), zarrvec.at(array, before).chunks
    ((1, 4), [8, 9, 10, 11], (3, 1))
    """
    started = time.monotonic()
    _check_memory(memory_bytes)
    array = _source(source, storage_options)
    place = array.store_path
    _check_plan(plan, array)
    found = repository_and_key(place.store, place.path)
    codecs = {"filters": filters, "compressors": compressors, "serializer": serializer}
    wanted = _wanted(plan, chunks, shards, codecs)
    if destination is None:
        if found is None:
            raise OptionError(
                f"{place}: is on no zarrvec store, and only there an array can be rewritten in place; give a destination, or "
                "copy the store with `zarrvec pack` first."
            )
        target = found
    else:
        into = _destination(destination, storage_options)
        other = repository_and_key(into.store, into.path)
        _check_apart(place, into)
        if other is None:
            with progress_of(progress) as report, _cluster_of(client, place) as cluster:
                blocks = PlainJob(
                    seen=_see(place, found),
                    place=into,
                    wanted=wanted,
                    memory_bytes=memory_bytes,
                    overwrite=overwrite,
                    report=report,
                    cluster=cluster,
                ).run()
            return Rechunked(
                array=zarr.open_array(into, mode="r+"),
                commit=None,
                blocks=blocks,
                passes=1,
                resumed=False,
                seconds=time.monotonic() - started,
            )
        target = other
    repository, path = target
    in_place = found is not None and _identity(*found) == _identity(*target)
    if repository.transaction is not None or (found is not None and found[0].transaction is not None):
        raise TransactionError(
            f"{repository.place.name}: a transaction is open here, and a rechunking makes commits of its own; call it outside."
        )
    if in_place and found is not None:
        found[0].check_writable()
        if place.store.read_only and not isinstance(source, str):
            raise ReadOnlyError(f"{place}: the array was opened read-only; open it with mode='a' or 'r+'.")
    repository.check_writable()
    written = repository.place if plan is None else replace(repository.place, pack_bytes=plan.pack_bytes)
    with (
        progress_of(progress) as report,
        _cluster_of(client, place, StorePath(ZarrVecStore(repository), path)) as cluster,
    ):
        job = Job(
            repository=Repository(written, trace=False),
            path=path,
            wanted=wanted,
            memory_bytes=memory_bytes,
            message=message or f"rechunk {path or 'the array'}",
            overwrite=overwrite,
            source=str(place) if found is None else f"{found[0].place.name}/{found[1]}",
            see=None if in_place else lambda: _see(place, found),
            report=report,
            cluster=cluster,
        )
        job.run()
    if written != repository.place:  # then another engine has committed: the caller's looks for it
        run_sync(repository.begin_transaction())
    return Rechunked(
        array=zarr.open_array(StorePath(ZarrVecStore(repository), path), mode="r+"),
        commit=job.commit,
        blocks=job.blocks,
        passes=job.passes,
        resumed=job.resumed,
        seconds=time.monotonic() - started,
    )


@contextmanager
def _cluster_of(client: Any, *places: StorePath) -> Iterator[Cluster | None]:
    """Yield the workers behind a client, which see these places; None if there is no client."""
    if client is None:
        yield None
        return
    with Cluster(client) as cluster:
        for place in places:
            cluster.check_reached(place)
        yield cluster


def _identity(repository: Repository, path: str) -> tuple[str, str, str, str]:
    """Return what is one array however its store was opened."""
    place = repository.place
    return place.protocol, place.root, place.branch, path


def _check_memory(memory_bytes: object) -> None:
    if isinstance(memory_bytes, bool) or not isinstance(memory_bytes, int) or memory_bytes < 1:
        raise OptionError(f"memory_bytes={memory_bytes!r}: expected a number of bytes.")


def _check_plan(plan: object, source: AnyArray) -> None:
    if plan is None:
        return
    if not isinstance(plan, Plan):
        raise OptionError(
            f"plan={plan!r}: expected a Plan, of `zarrvec.plan`, of `zarrvec.replan(...)[path].plan` or of `Plan.from_json`."
        )
    kind = np.dtype(source.dtype)
    if np.dtype(plan.dtype).newbyteorder("=") != kind.newbyteorder("="):
        raise OptionError(
            f"plan: is for an array of {plan.dtype}, and {source.store_path} has {kind.str}; plan for that."
        )


def _wanted(
    plan: Plan | None,
    chunks: Sequence[int] | str,
    shards: Sequence[int] | str | None,
    codecs: dict[str, Any],
) -> Wanted:
    """Put together what is asked for.

    Raises
    ------
    OptionError
        If it is asked for twice, or nothing is.
    """
    asked = {"chunks": chunks, "shards": shards, **codecs}
    given = {name: value for name, value in asked.items() if not (isinstance(value, str) and value == KEEP)}
    if plan is not None:
        if given:
            name = next(iter(given))
            raise OptionError(f"{name}={given[name]!r}: the plan decides it; give one or the other.")
        return Wanted(chunks=plan.chunks, shards=plan.shards, codec=plan.codec)
    if not given:
        raise OptionError("nothing to change was named: give a plan, chunks=, shards= or codecs.")
    for name in ("chunks", "shards"):
        if given.get(name) is not None:
            given[name] = _lengths(name, given[name])
    return Wanted(**given)


def _lengths(name: str, given: Any) -> tuple[int, ...]:
    try:
        lengths = tuple(map(operator.index, (given,) if isinstance(given, int) else given))
    except TypeError as error:
        raise OptionError(f"{name}={given!r}: expected lengths, one for each axis.") from error
    if min(lengths, default=0) < 1:
        raise OptionError(f"{name}={given!r}: expected lengths of at least 1, one for each axis.")
    return lengths


def _source(source: AnyArray | str, storage_options: dict[str, Any] | None) -> AnyArray:
    if isinstance(source, str):
        source = zarr.open_array(source, mode="r", storage_options=storage_options)
    if not isinstance(source, zarr.Array):
        raise OptionError(f"source={source!r}: expected a zarr array, or the URL of one.")
    return source


def _destination(destination: Any, storage_options: dict[str, Any] | None) -> StorePath:
    if isinstance(destination, StorePath):
        return destination
    if isinstance(destination, str) and destination.startswith("zarrvec:"):
        return StorePath(open_store(destination, storage_options))
    options = storage_options if isinstance(destination, str) and "://" in destination else None
    try:
        place: StorePath = sync(make_store_path(destination, mode="a", storage_options=options))
    except TypeError as error:
        raise OptionError(
            f"destination={destination!r}: expected a URL, a path, a zarr store or a zarr.storage.StorePath."
        ) from error
    return place


def _check_apart(source: StorePath, destination: StorePath) -> None:
    """Raise if writing the destination would delete the source first.

    Raises
    ------
    OptionError
        If the source lies in the destination; or is it, on a store without versions.
    """
    inside, outside = _where(source), _where(destination)
    in_place = inside == outside and repository_and_key(destination.store, "") is not None
    if not in_place and f"{inside}/".startswith(f"{outside}/"):
        raise OptionError(f"destination {destination}: the source {source} lies in it; choose another place.")


def _where(place: StorePath) -> str:
    found = repository_and_key(place.store, place.path)
    if found is not None:
        return "/".join(part for part in _identity(*found) if part)
    store = place.store
    if isinstance(store, LocalStore):
        return str((store.root / place.path).resolve())
    if isinstance(store, FsspecStore):
        return f"{store.fs.protocol}:{store.path.strip('/')}/{place.path}".rstrip("/")
    return str(place).rstrip("/")


def _see(place: StorePath, found: tuple[Repository, str] | None) -> Seen:
    """Look at the source as it is now, or as it is in the version that it was opened at."""
    if found is None:
        return see_plain(place)
    repository, path = found
    version = (
        run_sync(repository.version())
        if repository.at is not None
        else run_sync(repository.begin_transaction()).version
    )
    return see_versioned(repository, View(version=version), path)
