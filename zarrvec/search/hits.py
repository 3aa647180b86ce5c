"""What a search returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zarrvec.errors import OptionError

if TYPE_CHECKING:
    import xarray

_REPR_QUERIES = 3
_REPR_HITS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStats:
    """What a search cost."""

    vectors: int
    """Rows compared with the queries: those selected that are finite."""
    bytes_decoded: int
    """Decoded bytes of the chunks that were read, clipped to the array."""
    chunks_read: int
    """Chunks that were read; inner chunks if the array is sharded."""
    seconds: float
    """Wall time."""
    requests: int | None = None
    """Requests to the storage: on a zarrvec store reads of packs, for rows and columns too, elsewhere reads of the index alone;
    None if they weren't counted."""
    bytes_read: int | None = None
    """Bytes that these brought; None if not counted."""
    rounds: int | None = None
    """Waves of requests that had to wait for one another; None if they weren't counted."""
    nprobe: int | None = None
    """Lists probed for each query; None if there was no index, or it wasn't used."""
    reranked: bool = False
    """Whether the nearest by their codes were ranked again by their rows."""
    lists: int = 0
    """Posting lists scanned, those of later segments counted apart."""
    entries: int = 0
    """Entries compared with a query, over all queries."""
    unlike: int = 0
    """Queries farther from the index than nearly all that it was calibrated on: their recall may be lower than asked
    for. Build with ``queries=`` such as these."""
    part_read: float | None = None
    """Exact search: bytes of the chunks that were read, as a part of those of the array. Lists that proved that the
    others needn't be read come on top; see `lists`. None for a search by the index."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Hits:
    """The nearest rows of each query, nearest first.

    A batch of q queries gives arrays that start with (q, k), a single query of shape (d,) gives arrays that start with
    (k,). There is no padding: every place holds a row, so that k is the k asked for, or the number of rows that can match
    (selected by ``where`` and finite) when that is smaller; it is the same for all queries of a batch.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> from zarrvec.search.exact import search_exact
    >>> array = zarr.create_array(zarr.storage.MemoryStore(), data=np.eye(4, dtype="f4"), chunks=(2, 4))
    >>> hits = search_exact(array, [0, 0, 2, 1], k=2, metric="ip")
    >>> hits
    <Hits: 1 query, k=2>
    ids [2 3] distances [-2. -1.]
    >>> len(hits), hits.stats.chunks_read
    (2, 2)
    """

    ids: npt.NDArray[np.int64]
    """([q,] k) int64: positions in the leading axes, flattened in C order."""
    distances: npt.NDArray[np.float32]
    """([q,] k) float32, ascending; what they mean is in `zarrvec.search.metrics`. Ordered by the float64 distance and then
    by id, so ids need not ascend where two distances differ by less than float32 shows."""
    indices: tuple[npt.NDArray[np.int64], ...]
    """The ids as one ([q,] k) int64 array for each leading axis; ``array[hits.indices[0][i], ...]``."""
    vectors: npt.NDArray[Any] | None = None
    """([q,] k, d) in the dtype of the array, if they were asked for."""
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """([q,] k, ...) values of sibling arrays, by the names asked for."""
    stats: SearchStats

    def __len__(self) -> int:
        """Return the length of the first axis: queries of a batch, hits of a single query."""
        return len(self.ids)

    def __repr__(self) -> str:
        ids, distances = np.atleast_2d(self.ids), np.atleast_2d(self.distances)
        count, k = ids.shape
        lines = [f"<Hits: {count} {'query' if count == 1 else 'queries'}, k={k}>"]
        for row_ids, row_distances in zip(ids[:_REPR_QUERIES], distances[:_REPR_QUERIES], strict=True):
            more = " ..." if k > _REPR_HITS else ""
            near = np.array2string(row_distances[:_REPR_HITS], precision=4)
            lines.append(f"ids {row_ids[:_REPR_HITS]}{more} distances {near}{more}")
        if count > _REPR_QUERIES:
            lines.append("...")
        return "\n".join(lines)

    def to_xarray(self) -> "xarray.Dataset":
        """Return the hits as a dataset with dimensions ``query`` (for a batch), ``rank`` and ``component``.

        Variables are ``ids``, ``distances``, ``index_0``, ``index_1``, ..., ``vectors`` if there are any, and the
        columns.

        Raises
        ------
        OptionError
            If xarray is not installed, or a column has the name of another variable or of a dimension.

        Examples
        --------
        >>> import numpy as np, zarr
        >>> from zarrvec.search.exact import search_exact
        >>> array = zarr.create_array(zarr.storage.MemoryStore(), data=np.eye(4, dtype="f4"), chunks=(2, 4))
        >>> dict(search_exact(array, np.eye(4)[:2], k=3, metric="l2").to_xarray().sizes)
        {'query': 2, 'rank': 3}
        """
        try:
            import xarray
        except ImportError as error:
            message = "to_xarray() needs the package xarray, which is not installed: run `pip install xarray`"
            raise OptionError(message) from error
        dims = ("query", "rank")[-self.ids.ndim :]
        variables: dict[str, Any] = {"ids": (dims, self.ids), "distances": (dims, self.distances)}
        variables |= {f"index_{axis}": (dims, index) for axis, index in enumerate(self.indices)}
        if self.vectors is not None:
            variables["vectors"] = ((*dims, "component"), self.vectors)
        columns: dict[str, Any] = {
            name: ((*dims, *(f"{name}_{axis}" for axis in range(values.ndim - len(dims)))), values)
            for name, values in self.columns.items()
        }
        own = {*variables, *(axis for axes, _ in variables.values() for axis in axes)}
        inner = {axis for axes, _ in columns.values() for axis in axes[len(dims) :]}
        for name, (axes, _) in columns.items():
            if name in own | inner or not own.isdisjoint(axes[len(dims) :]):
                raise OptionError(
                    f"column {name!r}: the dataset has variables and dimensions {sorted(own | inner)} already; take the "
                    "column from hits.columns and the dataset from a search without it, or give the array another name"
                )
        return xarray.Dataset(variables | columns)
