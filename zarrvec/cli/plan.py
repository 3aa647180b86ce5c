"""Which layout suits an array? ``plan``."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt
import typer

from zarrvec.cli.arrays import load_numbers, open_array
from zarrvec.cli.common import (
    At,
    Branch,
    Options,
    StorageOptions,
    chosen_options,
    parse_bytes,
    parse_options,
    stderr,
    stdout,
)
from zarrvec.errors import OptionError
from zarrvec.planner.calibrating import calibrated_machine
from zarrvec.planner.plan import Plan
from zarrvec.planner.planning import plan as make_plan
from zarrvec.planner.probe import probe
from zarrvec.planner.targets import Target
from zarrvec.planner.weighing import OBJECTIVES

SAMPLE_BYTES: Final = 32 << 20
"""Of an existing array about so much is read as a sample."""


def plan(
    url: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="An existing array: its shape, dtype, chunks and data."),
    ] = None,
    path: Annotated[str, typer.Argument(help="Path of the array inside the store.")] = "",
    shape: Annotated[
        str | None, typer.Option("--shape", metavar="N,N,...", help="Shape of an array that isn't there yet.")
    ] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Its dtype, such as uint8 or float32.")] = None,
    read: Annotated[
        list[str] | None,
        typer.Option(
            "--read", metavar="WORDS[=WEIGHT]", help="Such as 'one frame' or 'random rows of 500=0.2'."
        ),
    ] = None,
    write: Annotated[
        list[str] | None, typer.Option("--write", metavar="WORDS[=WEIGHT]", help="Such as 'by episode'.")
    ] = None,
    axes: Annotated[
        str | None, typer.Option("--axes", metavar="NAME,...", help="Names of the axes, for use in words.")
    ] = None,
    chunks: Annotated[
        str | None, typer.Option("--chunks", metavar="N,N,...", help="Your own chunks, to compare with.")
    ] = None,
    target: Annotated[str, typer.Option("--target", help="s3, s3-express, gcs or local.")] = "s3",
    probe_url: Annotated[
        str | None,
        typer.Option(
            "--probe", metavar="URL", help="Measure this place and this machine, and plan for them."
        ),
    ] = None,
    objective: Annotated[str, typer.Option("--objective", help="time, cost or balanced.")] = "time",
    sample: Annotated[
        Path | None,
        typer.Option("--sample", metavar="FILE.npy", help="A part of the data, to measure codecs on."),
    ] = None,
    no_sample: Annotated[
        bool, typer.Option("--no-sample", help="Read no data of an existing array; measure no codecs.")
    ] = False,
    whole_axes: Annotated[
        str | None,
        typer.Option("--whole-axes", metavar="AXIS,...", help="Axes that are never split, such as -1."),
    ] = None,
    max_chunk: Annotated[
        str | None, typer.Option("--max-chunk", metavar="BYTES", help="The largest chunk, such as 8MiB.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="BYTES", help="The most that a call needs besides its result."),
    ] = None,
    lossy: Annotated[bool, typer.Option("--lossy", help="Allow codecs that lose something.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Save a picture; needs matplotlib.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what is tried at random.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    branch: Branch = None,
    at: At = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """Plan chunks, codec and packs for how an array is read and written, beside what zarr and dask would choose."""
    if objective not in OBJECTIVES:
        raise OptionError(f"--objective {objective}: expected one of {', '.join(OBJECTIVES)}.")
    if (url is None) == (shape is None or dtype is None):
        raise OptionError("plan: expected the URL of an array, or --shape and --dtype.")
    asked: dict[str, Any] = {
        "reads": read or [],
        "writes": write or [],
        "objective": cast("Literal['time', 'cost', 'balanced']", objective),
        "axes": None if axes is None else axes.split(","),
        "lossy": lossy,
        "seed": seed,
    }
    if whole_axes is not None:
        asked["whole_axes"] = [_axis(word) for word in whole_axes.split(",")]
    if max_chunk is not None:
        asked["max_chunk_bytes"] = parse_bytes("--max-chunk", max_chunk)
    if memory is not None:
        asked["memory_bytes"] = parse_bytes("--memory", memory)
    if chunks is not None:
        asked["chunks"] = _lengths("--chunks", chunks)
    if sample is not None:
        asked["sample"] = load_numbers("--sample", sample)
    lengths: tuple[int, ...]
    kind: npt.DTypeLike
    if url is not None:
        options = chosen_options(option, storage_options, branch=branch, at=at)
        array = open_array(url, path, options, read_only=True).array
        lengths, kind = array.shape, array.dtype
        asked.setdefault("chunks", array.chunks)
        names = getattr(array.metadata, "dimension_names", None)
        if axes is None and names and all(names):
            asked["axes"] = list(names)
        if sample is None and not no_sample:
            with stderr().status("reading a sample"):
                asked["sample"] = sample_of(array)
    else:
        lengths, kind = _lengths("--shape", str(shape)), str(dtype)
    with stderr().status("planning"):
        asked["target"] = _target(target, probe_url, option, storage_options)
        asked["machine"] = None if probe_url is None else calibrated_machine()
        made = make_plan(lengths, kind, **asked)
    if plot is not None:
        made.plot(plot)
    _show(made, as_json=as_json)


def sample_of(array: Any) -> npt.NDArray[Any]:
    """Read about `SAMPLE_BYTES` from the begin of an array: whole chunks where they fit.

    Examples
    --------
    >>> import zarr
    >>> sample_of(zarr.create_array({}, data=np.arange(6).reshape(3, 2))).shape
    (3, 2)
    """
    lengths = list(array.shape)
    while math.prod(lengths) * array.dtype.itemsize > SAMPLE_BYTES:
        axis = next(axis for axis, length in enumerate(lengths) if length > 1)
        spare = SAMPLE_BYTES // max(1, math.prod(lengths[axis + 1 :]) * array.dtype.itemsize)
        lengths[axis] = max(1, min(lengths[axis] - 1, spare))
    values: npt.NDArray[Any] = np.asarray(array[tuple(slice(length) for length in lengths)])
    return values


def _target(
    target: str, probe_url: str | None, option: list[str] | None, storage_options: str | None
) -> str | Target:
    if probe_url is None:
        return target
    return probe(probe_url, storage_options=parse_options(option, storage_options))


def _show(made: Plan, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(json.loads(made.to_json()), indent=2))
        return
    stdout().print(made.explain(), soft_wrap=True)


def _lengths(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.replace("x", ",").split(","))
    except ValueError:
        raise OptionError(f"{option} {text}: expected whole numbers, such as 500,200,12.") from None


def _axis(word: str) -> int | str:
    return int(word) if word.lstrip("-").isdecimal() else word
