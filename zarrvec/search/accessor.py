"""What ``array.vec`` offers."""

from collections.abc import Collection
from typing import Any

import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.search.build import BUILD_MEMORY_BYTES, Progress
from zarrvec.search.describe import BYTES_PER_SECOND, LATENCY_SECONDS, Plan, describe, explain, info
from zarrvec.search.exact import DEFAULT_MEMORY_BYTES
from zarrvec.search.extending import append
from zarrvec.search.hits import Hits
from zarrvec.search.inputs import metric_of
from zarrvec.search.manage import build_index, delete, drop_index
from zarrvec.search.metrics import Metric, check_metric
from zarrvec.search.optimize import optimize
from zarrvec.search.progress import progress_of
from zarrvec.search.searching import Latest, Options, search

DEFAULT_RECALL = 0.95


class VectorAccessor:
    """Search by nearness in the vectors on the last axis of an array.

    Parameters
    ----------
    array
        Of shape (..., d) with at least one leading axis, on any store.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> array = zarr.create_array(zarr.storage.MemoryStore(), data=np.eye(3, dtype="f4"), chunks=(2, 3))
    >>> array.vec
    <VectorAccessor of array '/', shape (3, 3), metric 'cosine'>
    >>> array.attrs["zarrvec"] = {"metric": "ip"}
    >>> array.vec.metric
    'ip'
    """

    __slots__ = ("_array", "_latest")

    def __init__(self, array: AnyArray) -> None:
        self._array = array
        self._latest = Latest()

    def __repr__(self) -> str:
        return f"<VectorAccessor of array {self._array.name or '/'!r}, shape {self._array.shape}, metric {self.metric!r}>"

    @property
    def metric(self) -> Metric:
        """The metric that is used unless another is asked for: ``attrs["zarrvec"]["metric"]``, else ``"cosine"``.

        Raises
        ------
        OptionError
            If the attribute names an unknown metric.
        """
        return metric_of(self._array)

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        metric: str | None = None,
        recall: float = DEFAULT_RECALL,
        exact: bool = False,
        where: object = None,
        nprobe: int | None = None,
        bits: int | None = None,
        rerank: bool | None = None,
        include: Collection[str] = (),
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
    ) -> Hits:
        """Find the k nearest rows of each query.

        With an index (see `build_index`) a search reads some posting lists, as many as the recall asked for takes. Rows that
        were written since the index was built are compared too, so an answer is never out of date. Without an index the
        search is exact whatever `recall` says, and reads all rows.

        Parameters
        ----------
        queries
            (d,) for one query, (q, d) for a batch; real and finite.
        k
            Number of hits, at least 1; fewer are returned if fewer rows can match.
        metric
            ``"cosine"``, ``"l2"`` (squared) or ``"ip"`` (negated); None for that of the index, or of the array: see `metric`.
        recall
            Share of the true k nearest that is asked for, in (0, 1]; 1 is exact.
        exact
            Whether all of them are.
        where
            Rows to search: booleans of the leading shape or flattened, integer ids (0 and 1 are ids too), a slice of ids; or
            a function of the arrays beside this one that returns one of these: ``lambda beside: beside["year"] >= 2000``.
        nprobe
            Posting lists to scan for each query; None to go by `recall`.
        bits
            4 to read half of each code, 8 for all; None for what the index was built for.
        rerank
            Whether to rank the nearest by their codes again by their rows, which takes a round more; None where the recall
            can't be had cheaper. Distances are those of the rows then, else those of the codes, about 1 % off.
        include
            ``"vectors"`` for the rows of the hits (never an array of that name), names of arrays beside for their values.
        memory_bytes
            Bound on what is held beside queries, results and the caches.

        Returns
        -------
        Hits
            Of shape (k,) for one query, (q, k) for a batch.

        Raises
        ------
        SearchError
            If array, queries, k or `where` can't be searched, or the index is for another metric.
        OptionError
            If another option is not one of those described.
        CorruptError
            If the index is damaged.

        Examples
        --------
        >>> import numpy as np, zarr
        >>> group = zarr.create_group(zarr.storage.MemoryStore())
        >>> array = group.create_array("emb", data=np.array([[1, 0], [0, 1], [3, 4], [4, 3]], "f4"))
        >>> _ = group.create_array("year", data=np.array([1990, 2000, 2010, 2020]))
        >>> array.vec.search([1, 1], k=2, metric="ip")
        <Hits: 1 query, k=2>
        ids [2 3] distances [-7. -7.]
        >>> hits = array.vec.search([1, 0], k=2, where=lambda beside: beside["year"] >= 2000, include=["year", "vectors"])
        >>> hits.columns["year"].tolist(), hits.vectors.tolist()
        ([2020, 2010], [[4.0, 3.0], [3.0, 4.0]])
        """
        options = self._latest.options(
            metric, recall, exact, where, nprobe, bits, rerank, include, memory_bytes
        )
        return search(self._array, queries, k, options, self._latest)

    def build_index(
        self,
        *,
        metric: str | None = None,
        nlist: int | None = None,
        bits: int = 8,
        queries: npt.ArrayLike | None = None,
        memory_bytes: int = BUILD_MEMORY_BYTES,
        seed: int = 0,
        spool: str | None = None,
        client: Any = None,
        progress: Progress | bool = False,
    ) -> dict[str, Any]:
        """Build an index of all rows, in place of any that is there.

        Parameters
        ----------
        metric
            ``"cosine"``, ``"l2"`` or ``"ip"``; None for that of the array, see `metric`.
        nlist
            Posting lists; None for one for 100 rows.
        bits
            What a search reads unless it asks otherwise: 8 for whole codes, 4 for halves.
        queries
            (c, d) some hundred queries as they will be asked, if they are not like the rows: the lists that a recall
            takes are measured on them. None to measure on rows.
        memory_bytes
            Bound on the sample of rows that is held, and on the blocks in which the others go by.
        seed
            Of what is drawn at random.
        spool
            Folder for a temporary file of about the size of the index; None for the system's. Not used with a client.
        client
            A `distributed.Client`: the workers of its dask cluster read and place the rows, and write the lists. They must
            reach the store as this process does. The index is the same as without.
        progress
            Whether to show a bar on the terminal; or a function that is called with stage, what is done of it, and all.

        Returns
        -------
        dict
            What `info` returns of the index itself.

        Raises
        ------
        SearchError
            If the array can't be indexed: its shape, its dtype, or not one finite row.
        OptionError
            If an option is wrong, faiss or dask is not installed, or workers don't reach the store.
        ConflictError
            If others changed the index all the time meanwhile.
        ClusterError
            If workers died, again and again.
        TransactionError
            With a client, in a transaction.

        Examples
        --------
        >>> import numpy as np, zarr
        >>> array = zarr.create_array({}, name="emb", data=np.random.default_rng(0).normal(size=(300, 8)))
        >>> array.vec.build_index(metric="l2")["lists"]
        3
        >>> array.vec.search(array[:2], k=1).ids.tolist()
        [[0], [1]]
        """
        with progress_of(progress) as report:
            head = build_index(
                self._array,
                metric=check_metric(self.metric if metric is None else metric),
                nlist=nlist,
                bits=bits,
                queries=queries,
                memory_bytes=memory_bytes,
                seed=seed,
                spool=spool,
                client=client,
                progress=report,
            )
        return describe(head)

    def drop_index(self) -> bool:
        """Delete the index; return whether there was one. Rows that were deleted can be found again.

        Examples
        --------
        >>> import numpy as np, zarr
        >>> array = zarr.create_array({}, name="emb", data=np.random.default_rng(0).normal(size=(50, 8)))
        >>> _ = array.vec.build_index()
        >>> array.vec.drop_index(), array.vec.drop_index()
        (True, False)
        """
        return drop_index(self._array)

    def append(self, vectors: npt.ArrayLike) -> tuple[int, ...]:
        """Append rows, so that searches find them at once; return the new shape.

        On a zarrvec store array and index change in one commit, and of two that append at one time both land. Rows are put
        into the index when there is a megabyte of them; until then searches compare them one by one.

        Parameters
        ----------
        vectors
            (n, ..., d), as the array but for the first axis.

        Raises
        ------
        SearchError
            If they are of another shape.

        Examples
        --------
        >>> import numpy as np, zarr
        >>> array = zarr.create_array({}, name="emb", data=np.random.default_rng(0).normal(size=(300, 8)))
        >>> _ = array.vec.build_index()
        >>> array.vec.append(-array[:1]), array.vec.search(-array[0], k=1).ids.tolist()
        ((301, 8), [300])
        """
        return append(self._array, vectors)

    def delete(self, ids: npt.ArrayLike) -> int:
        """Keep rows from being found, until the index is dropped; return how many could be found before.

        Parameters
        ----------
        ids
            Of rows, as in `Hits.ids`. The array itself is not changed.

        Raises
        ------
        SearchError
            If there is no index, or no such row.

        Examples
        --------
        >>> import numpy as np, zarr
        >>> array = zarr.create_array({}, name="emb", data=np.random.default_rng(0).normal(size=(300, 8)))
        >>> _ = array.vec.build_index()
        >>> array.vec.delete([5, 7]), array.vec.delete([7]), 5 in array.vec.search(array[5]).ids
        (2, 0, False)
        """
        return delete(self._array, ids)

    def optimize(self, *, progress: Progress | bool = False) -> dict[str, Any]:
        """Put all rows into one segment: those that were written since, those in later segments, without the deleted.

        Lists that have grown too long are split. If the rows that came later are unlike those that the index was built
        for, it is built anew.

        Returns
        -------
        dict
            What was done, and what it took.

        Raises
        ------
        SearchError
            If there is no index.

        Examples
        --------
        >>> import numpy as np, zarr
        >>> array = zarr.create_array({}, name="emb", data=np.random.default_rng(0).normal(size=(300, 8)))
        >>> _ = array.vec.build_index()
        >>> _ = array.vec.append(array[:20] + 1)
        >>> report = array.vec.optimize()
        >>> report["action"], report["because"], array.vec.info()["rows_out_of_lists"]
        ('merged', '20 rows in no list', 0)
        """
        with progress_of(progress) as report:
            return optimize(self._array, report)

    def info(self) -> dict[str, Any]:
        """Return what there is to know of the index: sizes, recall as measured, what of the array it covers.

        Raises
        ------
        SearchError
            If there is no index.

        Examples
        --------
        >>> import numpy as np, zarr
        >>> array = zarr.create_array({}, name="emb", data=np.random.default_rng(0).normal(size=(300, 8)))
        >>> _ = array.vec.build_index(queries=array[:100] + 0.1)
        >>> info = array.vec.info()
        >>> info["path"], info["rows"], info["lists"], info["rows_out_of_lists"], info["calibration"]["measured_on"]
        ('emb.vec', 300, 3, 0, 'queries')
        """
        return info(self._array)

    def explain(
        self,
        queries: npt.ArrayLike | None = None,
        k: int = 10,
        *,
        metric: str | None = None,
        recall: float = DEFAULT_RECALL,
        exact: bool = False,
        where: object = None,
        nprobe: int | None = None,
        bits: int | None = None,
        rerank: bool | None = None,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        latency_seconds: float = LATENCY_SECONDS,
        bytes_per_second: float = BYTES_PER_SECOND,
    ) -> Plan:
        """Tell what a search is going to do and to cost; print it, or see `zarrvec.search.describe.Plan`.

        The index is opened, and stays in memory; no list and no row is read.

        Parameters
        ----------
        queries
            As for `search`; None for a query at a typical place.
        k, metric, recall, exact, where, nprobe, bits, rerank, memory_bytes
            As for `search`.
        latency_seconds
            Of a request, for the estimate of time.
        bytes_per_second
            That the storage brings.

        Returns
        -------
        Plan
            What `hits.stats` would tell of the same search, and an estimate of time and price.

        Raises
        ------
        SearchError
            If array, queries, k or `where` can't be searched.
        OptionError
            If another option is not one of those described.

        Examples
        --------
        >>> import numpy as np, zarr
        >>> array = zarr.create_array(zarr.storage.MemoryStore(), data=np.eye(3, dtype="f4"), chunks=(2, 3))
        >>> print(VectorAccessor(array).explain(k=2))
        way      all rows, there is no index
        for      a typical query, k=2
        rows     3 in 2 chunks, 36 bytes, at most
        seconds  0.060 at 0.03 s and 85 MB/s
        dollars  1.20 for 10^6 queries
        """
        options = Options(
            metric=metric, recall=recall, exact=exact, where=where, nprobe=nprobe, bits=bits, rerank=rerank,
            memory_bytes=memory_bytes,
        )  # fmt: skip
        rates = {"latency_seconds": latency_seconds, "bytes_per_second": bytes_per_second}
        return explain(self._array, queries, k, options, **rates)
