"""How LanceDB, and the engine below it, keep and search the vectors.

The number of partitions is Lance's own choice for each kind of index. LanceDB's default for sub-vectors is a sixteenth or an
eighth of the width, and one single sub-vector where the width is a multiple of neither (GloVe's 100): a quarter of
the width is taken instead. Rows are stored as float32, the only type of the three data sets that Lance indexes under
both metrics; IVF_RQ takes multiples of 8 only, so its rows end in zeros, which change no distance. ``nprobes`` is both the least and the most that is probed. A row's number is read off its address, which
Lance returns without reading any column.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.search.places import Place
from benchmarks.search.problem import Floats, K, Problem
from benchmarks.search.systems import Ids, Rows, Settings

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

_COLUMN = "vector"
_TABLE = "rows"
_CACHE_BYTES = 4 << 30
_OFFSET_BITS = 32
_DIMENSIONS_A_SUB_VECTOR = 4
_RQ_MULTIPLE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Lance:
    """The engine by itself, pylance: its open reads less than LanceDB's."""

    kind: str
    """``IVF_PQ``, ``IVF_RQ`` or ``IVF_HNSW_SQ``."""
    modules = ("lance", "pyarrow", "numpy")

    def write(self, problem: Problem, place: Place) -> None:
        import lance

        rows = _padded(problem.base, self.kind)
        lance.write_dataset(_table(rows), _uri(place), storage_options=_options(place))

    def build(self, problem: Problem, place: Place) -> None:
        import lance

        more = {}
        if self.kind == "IVF_PQ":
            more["num_sub_vectors"] = problem.base.shape[1] // _DIMENSIONS_A_SUB_VECTOR
        dataset = lance.dataset(_uri(place), storage_options=_options(place))
        dataset.create_index(_COLUMN, self.kind, metric=problem.metric, **more)

    def open(self, problem: Problem, place: Place, settings: Settings) -> "_LanceSearcher":
        import lance

        dataset = lance.dataset(
            _uri(place), storage_options=_options(place), index_cache_size_bytes=_CACHE_BYTES
        )
        return _LanceSearcher(kind=self.kind, dataset=dataset, rows=len(problem.base), settings=settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _LanceSearcher:
    kind: str
    dataset: "lance.LanceDataset"
    rows: int
    settings: Settings

    def search(self, queries: Rows) -> Ids:
        floats = _padded(queries, self.kind)
        nearest: dict[str, Any] = {
            "column": _COLUMN,
            "q": floats if len(floats) > 1 else floats[0],
            "k": K,
            "minimum_nprobes": self.settings["nprobes"],
            "maximum_nprobes": self.settings["nprobes"],
        }
        if self.settings["refine_factor"]:
            nearest["refine_factor"] = self.settings["refine_factor"]
        if "ef" in self.settings:
            nearest["ef"] = self.settings["ef"]
        hits = self.dataset.scanner(columns=["_distance"], nearest=nearest, with_row_id=True).to_table()
        return _numbers(hits, len(floats), self.rows)

    def append(self, rows: Rows) -> None:
        import lance

        lance.write_dataset(_table(_padded(rows, self.kind)), self.dataset, mode="append")
        self.dataset.checkout_latest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LanceDB:
    """The database, on tables that `Lance` has made: connect, open a table, search."""

    kind: str
    """As in `Lance`."""
    modules = ("lancedb", "pyarrow", "numpy")

    def write(self, problem: Problem, place: Place) -> None:
        raise NotImplementedError("LanceDB searches what the engine by itself has written")

    def build(self, problem: Problem, place: Place) -> None:
        raise NotImplementedError("LanceDB searches what the engine by itself has built")

    def open(self, problem: Problem, place: Place, settings: Settings) -> "_LanceDBSearcher":
        import lancedb

        session = lancedb.Session(index_cache_size_bytes=_CACHE_BYTES)
        database = lancedb.connect(place.url, storage_options=_options(place), session=session)
        return _LanceDBSearcher(
            kind=self.kind,
            table=database.open_table(_TABLE),
            rows=len(problem.base),
            metric=problem.metric,
            settings=settings,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _LanceDBSearcher:
    kind: str
    table: Any
    rows: int
    metric: str
    settings: Settings

    def search(self, queries: Rows) -> Ids:
        floats = _padded(queries, self.kind)
        query = (
            self.table.search(floats[0] if len(floats) == 1 else list(floats))
            .distance_type(self.metric)
            .select(["_distance"])
            .with_row_id(True)  # noqa: FBT003 - LanceDB's signature
            .limit(K)
            .nprobes(self.settings["nprobes"])
        )
        if self.settings["refine_factor"]:
            query = query.refine_factor(self.settings["refine_factor"])
        if "ef" in self.settings:
            query = query.ef(self.settings["ef"])
        return _numbers(query.to_arrow(), len(floats), self.rows)

    def append(self, rows: Rows) -> None:
        self.table.add(_table(_padded(rows, self.kind)))


def _numbers(hits: "pa.Table", queries: int, rows: int) -> Ids:
    """Turn row addresses into row numbers: appended rows are in later fragments, the first `rows` in the first."""
    address = hits["_rowid"].to_numpy().astype(np.int64)
    ids = (address >> _OFFSET_BITS) * rows + (address & ((1 << _OFFSET_BITS) - 1))
    if queries == 1:
        return ids[np.newaxis]
    index = hits["query_index"].to_numpy()
    if len(ids) != queries * K:
        raise ValueError(f"{len(ids)} hits of {queries} queries: expected {K} of each")
    return ids[np.argsort(index, kind="stable")].reshape(queries, K)


def _padded(rows: Rows, kind: str) -> Floats:
    """Return float32 rows of a width that the kind of index takes."""
    missing = -rows.shape[1] % _RQ_MULTIPLE if kind == "IVF_RQ" else 0
    return np.pad(rows.astype(np.float32), ((0, 0), (0, missing)))


def _table(rows: Floats) -> "pa.Table":
    import pyarrow as pa

    return pa.table({_COLUMN: pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])})


def _uri(place: Place) -> str:
    return f"{place.url}/{_TABLE}.lance"


def _options(place: Place) -> dict[str, str] | None:
    bucket = place.bucket
    if bucket is None:
        return None
    return {
        "aws_endpoint": bucket.endpoint_url,
        "aws_access_key_id": bucket.access_key,
        "aws_secret_access_key": bucket.secret_key,
        "aws_region": bucket.region,
        "allow_http": "true",
    }
