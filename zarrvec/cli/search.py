"""Which rows of an array are like another? ``search``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from zarrvec.cli.common import At, Branch, Json, Options, StorageOptions, chosen_options, emit, stderr
from zarrvec.errors import OptionError


def search(
    url: Annotated[str, typer.Argument(metavar="URL", help="The array, or its store; on any storage.")],
    path: Annotated[str, typer.Argument(help="Path of the array inside the store.")] = "",
    like: Annotated[int | None, typer.Option("--like", metavar="ROW", help="Search for this row.")] = None,
    vector: Annotated[
        Path | None,
        typer.Option("--vector", metavar="FILE.npy", help="Search for this vector, or each of these."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of hits.")] = 10,
    metric: Annotated[str | None, typer.Option("--metric", help="cosine, l2 or ip.")] = None,
    show: Annotated[
        str | None, typer.Option("--show", metavar="PATH", help="Array whose rows are printed with the hits.")
    ] = None,
    as_json: Json = False,
    branch: Branch = None,
    at: At = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """Find the rows nearest to a row or to vectors, exactly."""
    if (like is None) == (vector is None):
        raise OptionError("search: expected one of --like ROW and --vector FILE.npy.")
    import numpy as np
    import zarr

    from zarrvec.cli.copying import open_plain_or_ours

    options = chosen_options(option, storage_options, branch=branch, at=at)
    store = open_plain_or_ours(url, options)
    found = zarr.open(store, path=path or None, mode="r")
    if not isinstance(found, zarr.Array):
        names = sorted(name for name, node in found.members(max_depth=None) if isinstance(node, zarr.Array))
        raise OptionError(f"{url} {path}: is a group, expected an array, such as one of {names}.")
    array: Any = found
    if like is not None:
        rows = int(np.prod(array.shape[:-1]))
        if not -rows <= like < rows:
            raise OptionError(f"--like {like}: expected a row below {rows} of {url}.")
        queries = array[tuple(int(i) for i in np.unravel_index(like % rows, array.shape[:-1]))]
    else:
        queries = _load(vector)
    with stderr().status("searching"):
        hits = array.vec.search(queries, k, metric=metric)
    shown: Any = zarr.open_array(store, path=show, mode="r") if show is not None else None
    if as_json:
        emit({"ids": hits.ids, "distances": hits.distances, "stats": hits.stats})
        return
    for query, (ids, distances) in enumerate(
        zip(np.atleast_2d(hits.ids), np.atleast_2d(hits.distances), strict=True)
    ):
        if hits.ids.ndim > 1:
            typer.echo(f"query {query}")
        for row, distance in zip(ids.tolist(), distances.tolist(), strict=True):
            text = "" if shown is None else f"  {np.asarray(shown[row]).item()}"
            typer.echo(f"{row:>10}  {distance:10.4f}{text}")


def _load(path: Path | None) -> Any:
    import numpy as np

    assert path is not None
    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        raise OptionError(f"--vector {path}: is not a .npy file of numbers ({error}).") from error
