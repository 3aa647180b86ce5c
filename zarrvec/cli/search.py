"""Which rows of an array are like another? ``search``."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import zarr

from zarrvec.cli.arrays import ArrayPath, ArrayUrl, load_ids, load_numbers, open_one_array, row_of
from zarrvec.cli.common import (
    At,
    Branch,
    Json,
    Options,
    StorageOptions,
    chosen_options,
    emit,
    human_bytes,
    stderr,
)
from zarrvec.errors import OptionError


def search(
    url: ArrayUrl,
    path: ArrayPath = "",
    like: Annotated[int | None, typer.Option("--like", metavar="ROW", help="Search for this row.")] = None,
    vector: Annotated[
        Path | None,
        typer.Option("--vector", metavar="FILE.npy", help="Search for this vector, or each of these."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of hits.")] = 10,
    metric: Annotated[str | None, typer.Option("--metric", help="cosine, l2 or ip.")] = None,
    recall: Annotated[
        float | None, typer.Option("--recall", help="Share of the true nearest that is asked for.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="All of the true nearest.")] = False,
    nprobe: Annotated[
        int | None, typer.Option("--nprobe", help="Posting lists to scan, whatever the recall.")
    ] = None,
    rerank: Annotated[
        bool | None,
        typer.Option(
            "--rerank/--no-rerank", help="Rank the nearest again by their rows; by itself where it pays."
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="NAME", help="Array beside this one to print for each hit."),
    ] = None,
    where_ids: Annotated[
        Path | None,
        typer.Option(
            "--where-ids", metavar="FILE", help="Search these rows only: .npy, or text with an id a line."
        ),
    ] = None,
    show: Annotated[
        str | None, typer.Option("--show", metavar="PATH", help="Array whose rows are printed with the hits.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print what the search would read; or what a typical one would.")
    ] = False,
    as_json: Json = False,
    branch: Branch = None,
    at: At = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """Find the rows nearest to a row or to vectors, by the array's index if there is one."""
    if (like is None) == (vector is None) and not (explain and like is None):
        raise OptionError("search: expected one of --like ROW and --vector FILE.npy.")
    options = chosen_options(option, storage_options, branch=branch, at=at)
    store, array = open_one_array(url, path, options, read_only=True)
    queries = None if like is None else row_of(array, like)
    if vector is not None:
        queries = load_numbers("--vector", vector)
    asked: dict[str, Any] = {"k": k, "metric": metric, "exact": exact, "nprobe": nprobe, "rerank": rerank}
    if recall is not None:
        asked["recall"] = recall
    if where_ids is not None:
        asked["where"] = load_ids("--where-ids", where_ids)
    if explain:
        plan = array.vec.explain(queries, **asked)
        if as_json:
            emit(plan.to_dict())
        else:
            typer.echo(str(plan))
        return
    with stderr().status("searching"):
        hits = array.vec.search(queries, include=include or (), **asked)
    columns = dict(hits.columns)
    if hits.vectors is not None:
        columns["vectors"] = hits.vectors
    if show is not None:
        columns[show] = _rows_of(zarr.open_array(store, path=show, mode="r"), hits.ids, array.shape[:-1])
    if as_json:
        emit({"ids": hits.ids, "distances": hits.distances, "columns": columns, "stats": hits.stats})
        return
    _print(hits, columns)
    typer.echo(_cost(hits.stats, len(np.atleast_2d(hits.ids))), err=True)


def _rows_of(shown: Any, ids: Any, leading: tuple[int, ...]) -> Any:
    from zarrvec.search.reading import read_rows

    if shown.shape[: len(leading)] != leading:
        raise OptionError(
            f"--show {shown.path}: has the shape {shown.shape}, expected one that begins with {leading}."
        )
    return read_rows(shown, ids, len(leading))


def _print(hits: Any, columns: dict[str, Any]) -> None:
    is_batch = hits.ids.ndim > 1
    for place in np.ndindex(hits.ids.shape):
        if is_batch and place[-1] == 0:
            typer.echo(f"query {place[0]}")
        texts = "".join(f"  {_text(values[place])}" for values in columns.values())
        typer.echo(f"{hits.ids[place]:>10}  {hits.distances[place]:10.4f}{texts}")


def _text(value: Any) -> str:
    return str(np.asarray(value).tolist())


def _cost(stats: Any, queries: int) -> str:
    """Write in one line what a search took."""
    parts = []
    if stats.lists:
        again = ", ranked again by their rows" if stats.reranked else ""
        parts.append(f"{stats.lists:,} lists, {stats.entries:,} entries compared{again}")
    if stats.vectors:
        parts.append(f"{stats.vectors:,} rows compared")
    if stats.requests is not None:
        parts.append(
            f"requests: {stats.requests:,}, rounds: {stats.rounds}, {human_bytes(stats.bytes_read or 0)}"
        )
    if stats.part_read is not None:
        parts.append(
            f"{stats.part_read:.0%} of the array read: {stats.chunks_read:,} chunks, {human_bytes(stats.bytes_decoded)} decoded"
        )
    if stats.unlike:
        parts.append(
            f"{stats.unlike} of {queries} queries are unlike those that recall was measured on: build with --queries"
        )
    return "; ".join([*parts, f"{stats.seconds:.3f} s"])
