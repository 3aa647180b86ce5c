"""How does an array get other chunks? ``rechunk``."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from zarrvec.cli.arrays import ArrayPath, ArrayUrl, open_array
from zarrvec.cli.common import (
    Branch,
    Json,
    Options,
    StorageOptions,
    chosen_options,
    emit,
    parse_bytes,
)
from zarrvec.errors import OptionError


def rechunk(
    url: ArrayUrl,
    path: ArrayPath = "",
    chunks: Annotated[
        str | None, typer.Option("--chunks", metavar="LENGTHS", help="Such as 1,224,224.")
    ] = None,
    shards: Annotated[
        str | None, typer.Option("--shards", metavar="LENGTHS", help="Such as 100,224,224, or none.")
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="Chunks, codecs and size of packs, from `plan --json` or `replan --json`.",
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="DST", help="Store to copy to; in place if it is left out.")
    ] = None,
    to_path: Annotated[
        str | None, typer.Option("--to-path", metavar="PATH", help="Path there; PATH if it is left out.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="Bound on the cells held, such as 2GiB.")
    ] = "512MiB",
    message: Annotated[str, typer.Option("--message", "-m", help="Why; kept in the history.")] = "",
    as_json: Json = False,
    branch: Branch = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """Rewrite an array with other chunks and codecs; a call that ended early is gone on with."""
    from zarr.storage import StorePath

    from zarrvec.adapt.rechunk import rechunk as rewrite

    options = chosen_options(option, storage_options, branch=branch, at=None)
    array = open_array(url, path, options, read_only=to is not None).array
    wanted: dict[str, Any] = {}
    if chunks is not None:
        wanted["chunks"] = parse_lengths("--chunks", chunks)
    if shards is not None:
        wanted["shards"] = None if shards == "none" else parse_lengths("--shards", shards)
    if plan is not None:
        wanted["plan"] = load_plan(plan, array.path)
    destination = None
    if to is not None:
        destination = StorePath(_open_destination(to, options), array.path if to_path is None else to_path)
    elif to_path is not None:
        raise OptionError(f"--to-path {to_path}: needs --to, the store that it is a path of.")
    before = _chunks_of(array)
    done = rewrite(
        array,
        destination,
        overwrite=overwrite,
        memory_bytes=parse_bytes("--memory", memory),
        message=message,
        progress=True,
        **wanted,
    )
    told = {
        "path": done.array.path,
        "chunks_before": before,
        "chunks": done.array.chunks,
        "commit": done.commit,
        "blocks": done.blocks,
        "passes": done.passes,
        "resumed": done.resumed,
        "seconds": done.seconds,
    }
    if as_json:
        emit(told)
        return
    if destination is None and done.commit is None:
        typer.echo(f"{array.path or url}: has these chunks and codecs already")
        return
    landed = "" if done.commit is None else f" in commit {done.commit}"
    went_on = ", gone on from what was copied before" if done.resumed else ""
    typer.echo(
        f"{done.array.path or url}: chunks {before} are {done.array.chunks}{landed}; {done.blocks} blocks copied{went_on}, "
        f"{done.seconds:.1f} s"
    )


def parse_lengths(option: str, text: str) -> tuple[int, ...]:
    """Read lengths along the axes.

    Raises
    ------
    OptionError
        If they are none.

    Examples
    --------
    >>> parse_lengths("--chunks", "1, 224,224")
    (1, 224, 224)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(f"{option} {text}: expected lengths, such as 1,224,224.") from error


def load_plan(path: Path, array: str) -> Any:
    """Load a plan, or what a file of `replan --json` advises for an array.

    Raises
    ------
    OptionError
        If the file holds neither.
    """
    from zarrvec.planner.plan import Plan

    text = path.read_bytes()
    try:
        told = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise OptionError(f"--plan {path}: is not JSON ({error}).") from error
    if isinstance(told, dict) and "zarrvec_replan" in told:
        plans = {each["path"]: each["plan"] for each in told["arrays"]}
        if array not in plans:
            raise OptionError(f"--plan {path}: advises nothing for {array!r}, only for {sorted(plans)}.")
        text = msgspec.json.encode(plans[array])
    return Plan.from_json(text)


def _chunks_of(array: Any) -> Any:
    try:
        return array.chunks
    except NotImplementedError:  # a rectilinear grid, zarr 3.2 and later
        return "of many sizes"


def _open_destination(url: str, options: dict[str, dict[str, Any]]) -> Any:
    from zarr.storage import LocalStore

    from zarrvec.cli.copying import open_plain_or_ours

    is_new = "://" not in url and "::" not in url and not Path(url).expanduser().exists()
    return LocalStore(Path(url).expanduser()) if is_new else open_plain_or_ours(url, options, read_only=False)
