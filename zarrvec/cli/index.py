"""How is a vector index built, looked at, and kept in order? ``index``."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.table import Table
from typer.core import TyperGroup

from zarrvec.cli.arrays import ArrayPath, ArrayUrl, load_numbers, open_one_array
from zarrvec.cli.common import (
    At,
    Branch,
    Json,
    Options,
    StorageOptions,
    chosen_options,
    emit,
    human_bytes,
    parse_bytes,
    stdout,
)

SHOWN_RECALLS: Final = (0.9, 0.95, 0.99)
_BUILD: Final = "build"


class IndexCommands(TyperGroup):
    """Takes what is not the name of a command for arguments of ``build``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Find the command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [_BUILD, *args]
        return super().parse_args(ctx, args)


index = typer.Typer(
    cls=IndexCommands,
    name="index",
    help="Build the vector index of an array: `zarrvec index URL [PATH]`. Or look at it, put it in order, drop it.",
    no_args_is_help=True,
)


def build(
    url: ArrayUrl,
    path: ArrayPath = "",
    metric: Annotated[
        str | None, typer.Option("--metric", help="cosine, l2 or ip; the array's own if it is left out.")
    ] = None,
    nlist: Annotated[
        int | None, typer.Option("--nlist", help="Posting lists; one for 100 rows if it is left out.")
    ] = None,
    bits: Annotated[int, typer.Option("--bits", help="8, or 4 to read half of each code.")] = 8,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", metavar="FILE.npy", help="Queries as they will be asked, to measure on."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Bound on the rows held, such as 512MiB.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what is drawn at random.")] = 0,
    as_json: Json = False,
    branch: Branch = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """Build the index of an array, in place of any that is there; `index URL` does the same."""
    options = chosen_options(option, storage_options, branch=branch, at=None)
    vec = open_one_array(url, path, options, read_only=False).array.vec
    settings: dict[str, Any] = {} if memory is None else {"memory_bytes": parse_bytes("--memory", memory)}
    if queries is not None:
        settings["queries"] = load_numbers("--queries", queries)
    vec.build_index(metric=metric, nlist=nlist, bits=bits, seed=seed, progress=True, **settings)
    _show(vec.info(), as_json)


def info(
    url: ArrayUrl,
    path: ArrayPath = "",
    as_json: Json = False,
    branch: Branch = None,
    at: At = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """Show an index: its size, what of the array it covers, recall as measured."""
    options = chosen_options(option, storage_options, branch=branch, at=at)
    _show(open_one_array(url, path, options, read_only=True).array.vec.info(), as_json)


def optimize(
    url: ArrayUrl,
    path: ArrayPath = "",
    as_json: Json = False,
    branch: Branch = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """Put rows that were written since into the index, and what is deleted out of it."""
    options = chosen_options(option, storage_options, branch=branch, at=None)
    vec = open_one_array(url, path, options, read_only=False).array.vec
    report = vec.optimize(progress=True)
    if as_json:
        emit(report)
        return
    typer.echo(f"{report['action']}: {report['because']} ({report['seconds']:.1f} s)")


def drop(
    url: ArrayUrl,
    path: ArrayPath = "",
    as_json: Json = False,
    branch: Branch = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """Delete the index of an array; the array stays as it is."""
    options = chosen_options(option, storage_options, branch=branch, at=None)
    was_there = open_one_array(url, path, options, read_only=False).array.vec.drop_index()
    if as_json:
        emit({"dropped": was_there})
    else:
        typer.echo("dropped" if was_there else "there was no index")


_COMMANDS: Final[tuple[Callable[..., None], ...]] = (build, info, optimize, drop)
for _command in _COMMANDS:
    index.command()(_command)


def _show(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(figures)
        return
    out = stdout()
    built = figures["built"]
    stages = {stage: seconds for stage, seconds in built["seconds"].items() if stage != "all"}
    took = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items())
    calibration = figures["calibration"]
    lines = {
        "index": f"{figures['path']}, {human_bytes(figures['bytes'])}; metric {figures['metric']}",
        "rows": f"{figures['rows']:,} of {figures['width']} numbers, {figures['entries']:,} entries in {figures['lists']:,} lists",
        "since then": f"appended segments: {figures['segments'] - 1}; rows in no list: {figures['rows_out_of_lists']:,}; "
        f"deleted: {figures['deleted']:,}",
        "built": f"{built['time']} by zarrvec {built['zarrvec']} in {built['seconds']['all']:.1f} s: {took}",
        "recall": f"measured on {calibration['queries']:,} {calibration['measured_on']}",
    }
    for name, text in lines.items():
        out.print(f"{name:<11} {text}", soft_wrap=True)
    out.print()
    out.print(_recall_table(calibration))


def _recall_table(calibration: dict[str, Any]) -> Table:
    """Return the fewest lists that hold so many of the true neighbours, with the recall that was measured."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("lists for a recall of")
    for wanted in SHOWN_RECALLS:
        table.add_column(f"{wanted:.2f}", justify="right")
    losses = calibration["lost_by_codes"]
    bits = sorted({each for loss in losses.values() for each in loss}, reverse=True)
    for each in bits:
        table.add_column(f"lost by {each} bits", justify="right")
    for name, curve in calibration["recall"].items():
        table.add_row(
            name,
            *(_first(curve, wanted) for wanted in SHOWN_RECALLS),
            *(f"{losses[name][each]:.4f}" for each in bits),
        )
    return table


def _first(curve: dict[str, float], wanted: float) -> str:
    for nprobe, recall in curve.items():
        if recall >= wanted:
            return f"{nprobe} ({recall:.4f})"
    return "all"
