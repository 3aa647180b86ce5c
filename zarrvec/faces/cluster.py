"""How is work done by the workers of a dask cluster?

Tasks are functions of values; dask keeps their results on the workers, sends them from one to another, and computes
again what was lost with a worker that died. So a task must give the same when it is called again. Source:
``specs/decisions/0014-work-on-a-cluster.md``.
"""

import pickle
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, MemoryStore, StorePath, WrapperStore, ZipStore

from zarrvec.engine.bridge import run_sync
from zarrvec.engine.engine import Place
from zarrvec.errors import ClusterError, OptionError, TransactionError
from zarrvec.faces.targets import repository_and_key
from zarrvec.repository import Repository

T = TypeVar("T")

TASKS_PER_THREAD: Final = 4
"""Into so many tasks for each thread of the workers work is cut, if there is so much: some take longer than others."""
_DOCUMENTS: Final = ("zarr.json", ".zarray", ".zgroup")
_PICKLING: Final = (pickle.PicklingError, TypeError, AttributeError, ValueError, RuntimeError, OSError)


class Cluster:
    """The workers behind a dask client, for one call. At its end whatever is left on them is let go.

    Parameters
    ----------
    client
        A `distributed.Client`.

    Raises
    ------
    OptionError
        If it is none, or one that can't be used.
    ClusterError
        If it has no workers.

    Examples
    --------
    >>> from distributed import Client
    >>> with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0") as client:
    ...     with Cluster(client) as cluster:
    ...         squares = [cluster.submit(pow, number, 2) for number in range(3)]
    ...         cluster.threads, sorted(cluster.results(squares))
    (2, [(0, 0), (1, 1), (2, 4)])
    """

    def __init__(self, client: Any) -> None:
        self._client = _checked(client)
        self._futures: weakref.WeakSet[Any] = weakref.WeakSet()
        self.threads: int = sum(client.nthreads().values())
        """Of all workers."""
        if not self.threads:
            raise ClusterError(
                f"client={client!r}: has no workers; start some, and wait for them: client.wait_for_workers(1)."
            )

    @property
    def wanted_tasks(self) -> int:
        """Into how many tasks work is cut at least."""
        return TASKS_PER_THREAD * self.threads

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go(list(self._futures))

    def let_go(self, futures: Sequence[Any]) -> None:
        """Stop tasks, and drop their results."""
        if futures and self._client.status == "running":
            self._client.cancel(futures)

    def share(self, value: object) -> Any:
        """Send a value that many tasks need; what is returned stands for it in `submit`.

        It is the result of a task, which the scheduler keeps: what dask scatters is lost with the worker that has it, and
        to scatter it to all workers never ends if one of them dies meanwhile.
        """
        from dask import config

        # centroids are large
        with config.set({"distributed.admin.large-graph-warning-threshold": sys.maxsize}):
            return self.submit(_same, value)

    def submit(self, function: Callable[..., T], *values: object) -> Any:
        """Let a worker call a function; return what stands for the result in `submit` and `results`."""
        future = self._client.submit(function, *values, pure=False)
        self._futures.add(future)
        return future

    def results(self, futures: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield the results of tasks with their positions, as they come; each is let go then.

        Raises
        ------
        ClusterError
            If workers died, again and again or with what was sent to them.
        """
        from distributed import as_completed

        positions = {future.key: position for position, future in enumerate(futures)}
        with _told():
            for future, result in as_completed(futures, with_results=True):
                yield positions[future.key], result

    def all(self, futures: Sequence[Any]) -> list[Any]:
        """Return the results of tasks, in order; see `results`."""
        return [result for _, result in sorted(self.results(futures), key=lambda item: item[0])]

    def check_reached(self, place: StorePath) -> None:
        """Make sure that every worker sees the store that is worked on.

        Parameters
        ----------
        place
            In a zarrvec store that has commits; or of a group or array on another store.

        Raises
        ------
        OptionError
            If the store is one of this process only, or a worker sees something else at its place.
        TransactionError
            If a transaction is open on it here.
        """
        found = repository_and_key(place.store, place.path)
        if found is not None and found[0].transaction is not None:
            raise TransactionError(
                f"{found[0].place.name}: a transaction is open here, and workers don't see what is written in it; commit first."
            )
        if (found is not None and found[0].place.protocol == "memory") or _is_of_process(place.store):
            raise OptionError(
                f"{place}: is in the memory of this process, or a single file, which workers can't share; copy it to files or "
                "object storage that all of them reach."
            )
        look: Callable[[Any], object] = _documents_at if found is None else _number_of
        where = place if found is None else found[0].place
        try:
            pickle.dumps(where)
        except _PICKLING as error:
            raise OptionError(
                f"{place}: its store can't be sent to workers ({error}); open it by its URL, as zarr.open_array(url)."
            ) from error
        here = look(where)
        with _told():
            seen = self._client.run(look, where, on_error="return")
        for worker, there in seen.items():
            if isinstance(there, ModuleNotFoundError):
                raise OptionError(
                    f"worker {worker}: {there}; install zarrvec there as it is here."
                ) from there
            is_newer = isinstance(there, int) and isinstance(here, int) and there > here
            if there != here and not is_newer:
                raise OptionError(
                    f"{place}: worker {worker} does not see what is there ({there!r}, expected {here!r}). Use a place that all "
                    "workers reach by the same path: object storage, or a file system that they share."
                ) from (there if isinstance(there, BaseException) else None)


def _checked(client: Any) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise OptionError(
            "client: a dask cluster takes dask.distributed: pip install 'zarrvec[dask]'"
        ) from error
    if not isinstance(client, Client):
        raise OptionError(
            f"client={client!r}: expected a distributed.Client, or None to work in this process."
        )
    if client.asynchronous:
        raise OptionError(f"client={client!r}: is asynchronous; give one made without asynchronous=True.")
    if client.status != "running":
        raise OptionError(f"client={client!r}: is {client.status}; give one that is connected.")
    return client


@contextmanager
def _told() -> Iterator[None]:
    """Raise what a cluster does when it fails as one of our errors; errors of tasks pass."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker
    from distributed.comm.core import CommClosedError

    try:
        yield
    except (KilledWorker, CancelledError, CommClosedError, TimeoutError) as error:
        raise ClusterError(
            f"the cluster failed: {str(error).rstrip('.')}. Look at the logs of its workers, which may have had too little "
            "memory, and call again."
        ) from error


def _is_of_process(store: Store) -> bool:
    """Return whether no other process sees what is written to a store; or can write too."""
    while isinstance(store, WrapperStore):
        store = store._store
    if isinstance(store, FsspecStore):
        names = store.fs.protocol
        return "memory" in ((names,) if isinstance(names, str) else names)
    inner = getattr(store, "store", None)  # of obstore
    return isinstance(store, MemoryStore | ZipStore) or type(inner).__name__ == "MemoryStore"


def _same(value: T) -> T:
    return value


def _number_of(place: Place) -> int:
    """Return the number of the newest commit of a zarrvec store."""
    return run_sync(Repository(place, trace=False).version()).number


def _documents_at(place: StorePath) -> Mapping[str, bytes]:
    """Return the metadata documents at a place."""
    found = {name: sync((place / name).get(prototype=default_buffer_prototype())) for name in _DOCUMENTS}
    return {name: value.to_bytes() for name, value in found.items() if value is not None}
