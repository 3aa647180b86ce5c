"""How do the plainer ways search: every chunk of a plain zarr array, or an index of faiss fetched whole?"""

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.search.places import Place
from benchmarks.search.problem import Floats, K, Problem, squares, unit_or_same
from benchmarks.search.systems import Ids, Rows, Settings

if TYPE_CHECKING:
    import faiss
    import zarr

_ARRAY = "vectors"
_CHUNK_BYTES = 4 << 20
_OBJECT = "index.faiss"
_PART_BYTES = 8 << 20
_TRAINED_ROWS_A_LIST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrNumpy:
    """zarr's own store for S3 and its default compression, then one matrix product."""

    modules = ("zarr", "s3fs", "numpy")

    def write(self, problem: Problem, place: Place) -> None:
        import zarr

        row_bytes = problem.base.shape[1] * problem.base.itemsize
        zarr.create_array(
            f"{place.url}/{_ARRAY}",
            data=np.asarray(problem.base),
            chunks=(max(1, _CHUNK_BYTES // row_bytes), problem.base.shape[1]),
            storage_options=_s3fs_options(place),
        )

    def build(self, problem: Problem, place: Place) -> None:
        """Do nothing: there is no index."""

    def open(self, problem: Problem, place: Place, settings: Settings) -> "_ZarrNumpySearcher":
        import zarr

        array = zarr.open_array(f"{place.url}/{_ARRAY}", storage_options=_s3fs_options(place))
        return _ZarrNumpySearcher(array=array, metric=problem.metric, keep=settings["keep"])


@dataclass(slots=True, kw_only=True)
class _ZarrNumpySearcher:
    array: "zarr.Array[Any]"
    metric: str
    keep: bool
    """Whether the rows, made ready, stay in memory after the first search."""
    ready: tuple[Floats, Floats | None] | None = None

    def search(self, queries: Rows) -> Ids:
        rows, squared = self.ready or self._read()
        if self.keep:
            self.ready = rows, squared
        near = unit_or_same(queries, self.metric) @ rows.T
        if squared is not None:  # the query's own length changes no order
            near = 2 * near - squared
        best = np.argpartition(near, near.shape[1] - K, axis=1)[:, -K:]
        order = np.argsort(-np.take_along_axis(near, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1)

    def append(self, rows: Rows) -> None:
        self.array.append(rows)

    def _read(self) -> tuple[Floats, Floats | None]:
        rows = unit_or_same(np.asarray(self.array[:]), self.metric)
        return rows, None if self.metric == "cosine" else squares(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faiss:
    """An index in one object: cold, all of it is fetched by parallel ranges; warm, it is in memory."""

    kind: str
    """``IVF_SQ8`` or ``HNSW``."""
    modules = ("faiss", "obstore", "numpy")

    def write(self, problem: Problem, place: Place) -> None:
        """Do nothing: the index holds all that is stored."""

    def build(self, problem: Problem, place: Place) -> None:
        import faiss

        faiss.omp_set_num_threads(os.cpu_count() or 1)
        rows = unit_or_same(np.asarray(problem.base), problem.metric)
        metric = faiss.METRIC_INNER_PRODUCT if problem.metric == "cosine" else faiss.METRIC_L2
        if self.kind == "HNSW":
            index = faiss.index_factory(rows.shape[1], "HNSW32,Flat", metric)
        else:
            lists = int(4 * len(rows) ** 0.5)
            index = faiss.index_factory(rows.shape[1], f"IVF{lists},SQ8", metric)
            sample = np.random.default_rng(0).permutation(len(rows))[: lists * _TRAINED_ROWS_A_LIST]
            index.train(rows[np.sort(sample)])
        index.add(rows)
        _put(place, index)

    def open(self, problem: Problem, place: Place, settings: Settings) -> "_FaissSearcher":
        import faiss

        faiss.omp_set_num_threads(os.cpu_count() or 1)
        index = faiss.deserialize_index(_get(place))
        if self.kind == "HNSW":
            index.hnsw.efSearch = settings["efSearch"]
        else:
            index.nprobe = settings["nprobe"]
        return _FaissSearcher(index=index, metric=problem.metric, place=place)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FaissSearcher:
    index: "faiss.Index"
    metric: str
    place: Place

    def search(self, queries: Rows) -> Ids:
        ids: Ids = self.index.search(unit_or_same(queries, self.metric), K)[1]
        return ids

    def append(self, rows: Rows) -> None:
        self.index.add(unit_or_same(rows, self.metric))
        _put(self.place, self.index)


def _put(place: Place, index: "faiss.Index") -> None:
    import faiss
    import obstore

    obstore.put(place.store(), _OBJECT, faiss.serialize_index(index).tobytes())


def _get(place: Place) -> Rows:
    import obstore

    if place.bucket is None:
        return np.fromfile(f"{place.directory}/{_OBJECT}", dtype=np.uint8)
    store = place.store()
    size = obstore.head(store, _OBJECT)["size"]
    whole = np.empty(size, dtype=np.uint8)

    async def fetch(start: int) -> None:
        end = min(start + _PART_BYTES, size)
        whole[start:end] = np.frombuffer(
            await obstore.get_range_async(store, _OBJECT, start=start, end=end), dtype=np.uint8
        )

    async def fetch_all() -> None:
        await asyncio.gather(*map(fetch, range(0, size, _PART_BYTES)))

    asyncio.run(fetch_all())
    return whole


def _s3fs_options(place: Place) -> dict[str, Any] | None:
    return None if place.bucket is None else place.bucket.storage_options
