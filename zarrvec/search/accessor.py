"""What ``array.vec`` offers."""

from collections.abc import Collection

import numpy.typing as npt
from zarr.types import AnyArray

from zarrvec.errors import OptionError
from zarrvec.search.exact import DEFAULT_MEMORY_BYTES, search_exact
from zarrvec.search.hits import Hits
from zarrvec.search.metrics import check_metric

DEFAULT_METRIC = "cosine"
DEFAULT_RECALL = 0.95
_INCLUDABLE = ("vectors",)


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
    >>> vec = VectorAccessor(array)
    >>> vec.search([0, 2, 1], k=2).ids.tolist()
    [1, 2]
    >>> array.attrs["zarrvec"] = {"metric": "ip"}
    >>> vec.search([0, 2, 1], k=2, include=["vectors"]).vectors.tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """

    __slots__ = ("_array",)

    def __init__(self, array: AnyArray) -> None:
        self._array = array

    def __repr__(self) -> str:
        return f"<VectorAccessor of array {self._array.name or '/'!r}, shape {self._array.shape}, metric {self.metric!r}>"

    @property
    def metric(self) -> str:
        """The metric that is used unless another is asked for: ``attrs["zarrvec"]["metric"]``, else ``"cosine"``.

        Raises
        ------
        OptionError
            If the attribute names an unknown metric.
        """
        stored = self._array.attrs.get("zarrvec")
        metric = stored.get("metric") if isinstance(stored, dict) else None
        if metric is None:
            return DEFAULT_METRIC
        try:
            return check_metric(metric)
        except OptionError as error:
            raise OptionError(
                f'{error}; it stands in attrs["zarrvec"]["metric"] of {self._array.name!r}'
            ) from error

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        metric: str | None = None,
        recall: float = DEFAULT_RECALL,
        exact: bool = False,
        where: object = None,
        include: Collection[str] = (),
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
    ) -> Hits:
        """Find the k nearest rows of each query.

        Without an index the search is exact whatever `recall` and `exact` say.

        Parameters
        ----------
        queries
            (d,) for one query, (q, d) for a batch; real and finite.
        k
            Number of hits, at least 1; fewer are returned if fewer rows can match.
        metric
            ``"cosine"``, ``"l2"`` (squared) or ``"ip"`` (negated); None for that of the array, see `metric`.
        recall
            Share of the true k nearest that is asked for, in (0, 1].
        exact
            Whether all of them are.
        where
            Rows to search: booleans of the leading shape or flattened, integer ids, or a slice of ids.
        include
            ``["vectors"]`` to get the vectors of the hits too.
        memory_bytes
            Bound on memory, as in `zarrvec.search.exact.search_exact`.

        Returns
        -------
        Hits
            Of shape (k,) for one query, (q, k) for a batch.

        Raises
        ------
        SearchError
            If array, queries, k or `where` can't be searched.
        OptionError
            If metric, recall, include or `memory_bytes` is not one of those described.
        """
        del exact  # no index yet: nothing is approximate
        try:
            valid = 0 < recall <= 1
        except TypeError:
            valid = False
        if not valid:
            raise OptionError(f"recall={recall!r}: expected a share above 0 and up to 1")
        asked = (include,) if isinstance(include, str) else tuple(include)
        unknown = [name for name in asked if name not in _INCLUDABLE]
        if unknown:
            raise OptionError(
                f"include={include!r}: {unknown[0]!r} is unknown, expected some of {list(_INCLUDABLE)}"
            )
        return search_exact(
            self._array,
            queries,
            k,
            metric=self.metric if metric is None else metric,
            where=where,
            include_vectors="vectors" in asked,
            memory_bytes=memory_bytes,
        )
