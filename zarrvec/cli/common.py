"""What do all commands share: options of storages, tables, progress bars, JSON?"""

import dataclasses
import json
import math
import re
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from zarrvec.engine.bridge import run_sync
from zarrvec.engine.version import Version
from zarrvec.errors import NotAStoreError, OptionError
from zarrvec.faces.targets import open_store
from zarrvec.repository import Repository

_NOT_A_TERMINAL_WIDTH = 140
OURS = "zarrvec"

Url = Annotated[str, typer.Argument(metavar="URL", help="zarrvec::s3://bucket/data.zarr, or a local path.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="STORAGE.KEY=VALUE",
        help="Such as s3.endpoint_url=... or zarrvec.branch=dev.",
    ),
]
StorageOptions = Annotated[
    str | None,
    typer.Option(
        "--storage-options", metavar="JSON", help='Such as {"s3": {"anon": true}}; as for zarr.open.'
    ),
]
Branch = Annotated[str | None, typer.Option("--branch", help="Branch instead of main.")]
At = Annotated[str | None, typer.Option("--at", help="Past version: commit number or id, tag, or time.")]


def parse_options(options: list[str] | None, storage_options: str | None) -> dict[str, dict[str, Any]]:
    """Read the options of storages, by the storages' names.

    Raises
    ------
    OptionError
        If one can't be read.

    Examples
    --------
    >>> parse_options(["s3.key=123", "s3.anon=true", "zarrvec.pack_bytes=4096"], None)
    {'s3': {'key': '123', 'anon': True}, 'zarrvec': {'pack_bytes': 4096}}
    >>> parse_options(["s3.client_kwargs.region_name=eu"], '{"s3": {"key": "k"}}')
    {'s3': {'key': 'k', 'client_kwargs': {'region_name': 'eu'}}}
    """
    chosen: dict[str, Any] = {}
    if storage_options is not None:
        try:
            given = json.loads(storage_options)
        except ValueError as error:
            raise OptionError(f"--storage-options is not JSON: {error}.") from error
        if not isinstance(given, dict) or not all(isinstance(value, dict) for value in given.values()):
            raise OptionError(
                '--storage-options: expected options under the names of storages, {"s3": {"key": ...}}.'
            )
        chosen = given
    for option in options or ():
        name, equals, value = option.partition("=")
        path = name.split(".")
        if not equals or len(path) < 2 or "" in path:
            raise OptionError(
                f"--option {option.partition('=')[0]!r}: expected STORAGE.KEY=VALUE, such as s3.anon=true."
            )
        inner = chosen
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise OptionError(f"--option {name!r}: {part!r} has a value already.")
        inner[path[-1]] = _parse_value(value, path[0])
    return chosen


def _parse_value(value: str, storage: str) -> Any:
    """Read a value as JSON, but leave what may be a key or secret made of digits as it is."""
    if storage == OURS or value in ("true", "false", "null") or value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def chosen_options(
    options: list[str] | None, storage_options: str | None, *, branch: str | None, at: str | None
) -> dict[str, dict[str, Any]]:
    """Read the options of storages, with what stands in options of the command itself."""
    chosen = parse_options(options, storage_options)
    asked = {name: value for name, value in (("branch", branch), ("at", at)) if value is not None}
    return {**chosen, OURS: {**chosen.get(OURS, {}), **asked}} if asked else chosen


def open_repository(
    url: str,
    options: list[str] | None,
    storage_options: str | None,
    *,
    branch: str | None = None,
    at: str | None = None,
) -> tuple[Repository, str]:
    """Open a zarrvec store, and return the path inside it that the URL names too."""
    store = open_store(url, chosen_options(options, storage_options, branch=branch, at=at))
    return store.repository, store.path


def version_of(repository: Repository) -> Version:
    """Return the version that a handle sees.

    Raises
    ------
    NotAStoreError
        If there is no store.
    """
    version = run_sync(repository.version())
    if version.commit is None:
        raise NotAStoreError(
            f"{repository.place.name}: there is no zarrvec store; expected one. Writing to it by zarr makes it, "
            "`zarrvec pack SRC DST` copies a Zarr store."
        )
    return version


def stdout() -> Console:
    """Return where results go; nothing in them is taken for markup."""
    return _console(stderr=False)


def stderr() -> Console:
    """Return where progress goes."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _NOT_A_TERMINAL_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def byte_progress() -> Progress:
    """Return a progress bar that counts bytes, on stderr."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TimeElapsedColumn(),
        console=stderr(),
    )


def emit(value: Any) -> None:
    """Print a result as JSON; a number that JSON does not know, such as infinity, as null.

    Raises
    ------
    OptionError
        If something has no JSON form.
    """
    typer.echo(json.dumps(_plain(value, "result"), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any, name: str) -> Any:
    """Return a value as what JSON knows; the name is that of the field it stands in."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item, str(key)) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, name)
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), name)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    raise OptionError(f"{name}: {value!r} has no JSON form; leave it out, or leave out --json.")


def human_bytes(size: float) -> str:
    """Write a number of bytes for people.

    Examples
    --------
    >>> human_bytes(999), human_bytes(1536), human_bytes(3 << 30)
    ('999 B', '1.5 KiB', '3.0 GiB')
    """
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} PiB"


def parse_bytes(option: str, text: str) -> int:
    """Read a number of bytes, as `human_bytes` writes it or without the unit.

    Raises
    ------
    OptionError
        If it is none.

    Examples
    --------
    >>> parse_bytes("--memory", "1.5 KiB"), parse_bytes("--memory", "3GiB") >> 30, parse_bytes("--memory", "999")
    (1536, 3, 999)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]i)?B?", text)
    if found is None:
        raise OptionError(f"{option} {text}: expected bytes, such as 512MiB or 4GiB.")
    number, unit = found.groups()
    return int(float(number) * 1024 ** ("KMGT".index(unit[0]) + 1 if unit else 0))
