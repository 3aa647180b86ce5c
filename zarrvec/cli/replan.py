"""Which arrays of a store would do better with other chunks, by what was traced? ``replan``."""

from pathlib import Path
from typing import Annotated

import typer

from zarrvec.cli.common import At, Branch, Json, Options, StorageOptions, Url, chosen_options, parse_bytes
from zarrvec.errors import OptionError


def replan(
    url: Url,
    path: Annotated[str, typer.Argument(help="Path of an array or group inside the store.")] = "",
    trace: Annotated[
        list[Path] | None,
        typer.Option("--trace", metavar="FILE", help="What zarrvec.trace(...).save wrote; may be repeated."),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="s3, s3-express, gcs or local: where the store is read from.")
    ] = "s3",
    objective: Annotated[str, typer.Option("--objective", help="time, cost or balanced.")] = "time",
    sample: Annotated[
        str, typer.Option("--sample", metavar="SIZE", help="Bytes of each array to measure codecs on.")
    ] = "4MiB",
    calls_per_month: Annotated[float, typer.Option("--calls-per-month", help="For what it costs.")] = 100_000,
    as_json: Json = False,
    branch: Branch = None,
    at: At = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """Say for each traced array whether to change its chunks and codecs, what that saves, and when it pays."""
    from zarr.storage import StorePath

    from zarrvec.adapt.replan import replan as advise
    from zarrvec.faces.targets import open_store

    if not trace:
        raise OptionError(
            "--trace: none was given. Reads are counted in the process that makes them: save them there by "
            "zarrvec.trace(array_or_store).save('trace.json'), and give that file."
        )
    store = open_store(url, chosen_options(option, storage_options, branch=branch, at=at))
    advice = advise(
        StorePath(store, path),
        trace=trace,
        target=target,
        objective=objective,  # type: ignore[arg-type] # it says itself what it expected
        sample_bytes=parse_bytes("--sample", sample),
        calls_per_month=calls_per_month,
    )
    typer.echo(advice.to_json() if as_json else advice.explain())
