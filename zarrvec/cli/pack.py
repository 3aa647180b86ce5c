"""How does existing Zarr get into a zarrvec store? ``pack``."""

from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from zarrvec.cli.common import Json, Options, StorageOptions, emit, human_bytes, parse_options, stderr


def pack(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Any Zarr store, by path or URL.")],
    destination: Annotated[
        str, typer.Argument(metavar="DST", help="zarrvec::s3://bucket/data.zarr, or a local path.")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there, in one commit.")
    ] = False,
    message: Annotated[str, typer.Option("--message", "-m", help="Why; kept in the history.")] = "",
    as_json: Json = False,
    option: Options = None,
    storage_options: StorageOptions = None,
    source_option: Annotated[
        list[str] | None,
        typer.Option(
            "--source-option", metavar="STORAGE.KEY=VALUE", help="As --option, for the source alone."
        ),
    ] = None,
) -> None:
    """Copy any Zarr store, of both formats, key by key and in one commit."""
    from zarrvec.cli.copying import copy_store, open_source, options_for
    from zarrvec.faces.targets import open_store

    options = parse_options(option, storage_options)
    of_source = parse_options(source_option, None)
    merged = {name: {**options.get(name, {}), **of_source.get(name, {})} for name in {**options, **of_source}}
    if "zarrvec" in options:  # a branch or version of the destination is not the source's
        merged["zarrvec"] = of_source.get("zarrvec", {})
    store = open_store(destination, options_for(destination, options))
    bar = Progress(
        TextColumn("pack"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("keys, {task.fields[size]}"),
        TimeRemainingColumn(),
        TimeElapsedColumn(),
        console=stderr(),
    )
    with bar as progress:
        task = progress.add_task("pack", total=None, size="listing")
        copied = copy_store(
            open_source(source, merged),
            store.repository,
            store.path,
            overwrite=overwrite,
            message=message,
            on_progress=lambda done, total, size: progress.update(
                task, completed=done, total=total, size=human_bytes(size)
            ),
        )
    if as_json:
        emit(copied)
        return
    typer.echo(
        f"copied {copied.keys:,} keys ({human_bytes(copied.value_bytes)}), {copied.documents:,} of them metadata, "
        f"in commit {copied.number} of {store.repository.place.name}"
    )
