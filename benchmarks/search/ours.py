"""How zarrvec keeps and searches the vectors: an array that is opened by its URL, and ``array.vec``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.search.places import Place
from benchmarks.search.problem import K, Problem
from benchmarks.search.systems import Ids, Rows, Settings

if TYPE_CHECKING:
    import zarr

_ARRAY = "vectors"
_APPENDED = 5_000
"""Rows that are appended by one call."""
_SAMPLED = 10_000
"""Rows of which the plan takes a sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrVec:
    """An array in a zarrvec store, or in any other, with zarrvec's index beside it."""

    plain: bool = False
    """Whether the store is one of zarr's own, so that the index is in shards."""
    modules = ("zarr", "zarrvec", "obstore", "numpy")

    def write(self, problem: Problem, place: Place) -> None:
        import zarr

        import zarrvec

        plan = zarrvec.plan(
            problem.base.shape,
            problem.base.dtype,
            reads=["full scan"],
            writes=[f"rows of {_APPENDED}"],
            sample=np.asarray(problem.base[:_SAMPLED]),
        )
        root = zarr.open_group(self._url(place), mode="a", storage_options=self._options(place))
        plan.create(root, _ARRAY)[:] = np.asarray(problem.base)

    def build(self, problem: Problem, place: Place) -> None:
        self._array(place).vec.build_index(metric=problem.metric, queries=problem.sample)

    def open(self, problem: Problem, place: Place, settings: Settings) -> "_ZarrVecSearcher":
        return _ZarrVecSearcher(array=self._array(place), metric=problem.metric, recall=settings["recall"])

    def _array(self, place: Place) -> "zarr.Array[Any]":
        import zarr

        return zarr.open_array(self._url(place), path=_ARRAY, mode="r+", storage_options=self._options(place))

    def _url(self, place: Place) -> str:
        url = f"{place.url}/data.zarr"
        if self.plain:
            return url
        return f"zarrvec::{url}" if place.bucket is not None else f"zarrvec://{url}"

    def _options(self, place: Place) -> dict[str, Any] | None:
        if place.bucket is None:
            return None
        return place.bucket.storage_options if self.plain else {"s3": place.bucket.storage_options}


@dataclass(frozen=True, slots=True, kw_only=True)
class _ZarrVecSearcher:
    array: Any
    metric: str
    recall: float

    def search(self, queries: Rows) -> Ids:
        asked = queries if len(queries) > 1 else queries[0]
        ids = self.array.vec.search(asked, k=K, metric=self.metric, recall=self.recall).ids
        return np.atleast_2d(ids)

    def append(self, rows: Rows) -> None:
        self.array.vec.append(rows)
