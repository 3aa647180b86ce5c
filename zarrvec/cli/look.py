"""What is in a store, and how did it become so? ``info``, ``ls``, ``log``, ``diff``."""

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from zarrvec.cli.common import (
    At,
    Branch,
    Json,
    Options,
    StorageOptions,
    Url,
    emit,
    human_bytes,
    open_repository,
    stderr,
    stdout,
    version_of,
)
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.inspection import ArrayFigures, Figures, figures_of
from zarrvec.engine.listing import list_children, list_entries
from zarrvec.engine.version import View
from zarrvec.types import Entry


def info(
    url: Url,
    as_json: Json = False,
    branch: Branch = None,
    at: At = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """Show objects, packs, chunks, live bytes, and each array's figures."""
    repository, path = open_repository(url, option, storage_options, branch=branch, at=at)
    version = version_of(repository)

    async def count() -> Figures:
        return await figures_of(await repository.engine(), version, path)

    with stderr().status("counting"):
        figures = run_sync(count())
    if as_json:
        emit(figures)
        return
    out = stdout()
    share = (
        f" ({figures.live_bytes / figures.version_pack_bytes:.0%} live)" if figures.version_pack_bytes else ""
    )
    lines = {
        "store": figures.name,
        "version": f"{figures.number} of branch {figures.branch}",
        "versions": f"{figures.versions} kept; branches {', '.join(figures.branches)}; tags {', '.join(figures.tags) or 'none'}",
        "objects": f"{figures.objects:,}, {human_bytes(figures.object_bytes)}",
        "packs": f"{figures.packs:,}, {human_bytes(figures.pack_bytes)}; {figures.version_packs:,} of them used here",
        "values in packs": f"{human_bytes(figures.live_bytes)} of {human_bytes(figures.version_pack_bytes)}{share}",
        "values inline": human_bytes(figures.inline_bytes),
        "keys": f"{figures.chunks:,} chunks, {figures.documents:,} metadata documents, in {figures.pages:,} manifest pages",
    }
    for name, text in lines.items():
        out.print(f"{name:<16} {text}", soft_wrap=True)
    if figures.arrays:
        out.print()
        out.print(_array_table(figures.arrays))


def _array_table(arrays: list[ArrayFigures]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("array", overflow="fold")
    for name in ("shape", "type", "chunk"):
        table.add_column(name)
    for name in ("chunks", "bytes", "a chunk", "packs"):
        table.add_column(name, justify="right")
    for array in arrays:
        chunk = _times(array.chunks)
        if array.inner_chunks is not None:
            chunk = f"{_times(array.inner_chunks)} in shards {chunk}"
        table.add_row(
            array.path or "/",
            _times(array.shape),
            array.data_type,
            chunk,
            f"{array.stored:,} of {array.possible:,}",
            human_bytes(array.stored_bytes),
            human_bytes(array.stored_bytes / array.stored) if array.stored else "",
            f"{array.packs:,}" + (f" + {array.inline:,} inline" if array.inline else ""),
        )
    return table


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def ls(
    url: Url,
    path: Annotated[str, typer.Argument(help="Path inside the store.")] = "",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="All keys below it.")] = False,
    as_json: Json = False,
    branch: Branch = None,
    at: At = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """List keys and folders, with lengths and the commits that last changed them."""
    repository, prefix = open_repository(url, option, storage_options, branch=branch, at=at)
    prefix = f"{prefix}/{path.strip('/')}".strip("/")
    view = View(version=version_of(repository))

    async def children() -> dict[str, Entry | None]:
        reader = (await repository.engine()).reader
        if not recursive:
            return {**(await list_children(reader, view, prefix))}
        cut = len(prefix) + 1 if prefix else 0
        return {key[cut:]: entry async for key, entry in list_entries(reader, view, prefix)}

    async def value() -> Entry | None:
        return (await (await repository.engine()).reader.locate(view, [prefix]))[0] if prefix else None

    found = run_sync(children())
    if not found:
        entry = run_sync(value())
        if entry is None and prefix:
            raise FileNotFoundError(f"{repository.place.name}: there is nothing at {prefix!r}.")
        found = {prefix: entry} if entry is not None else {}
    rows = [_row(name, entry) for name, entry in found.items()]
    if as_json:
        emit(rows)
        return
    for row in rows:
        size = "" if row["bytes"] is None else f"{row['bytes']:,}"
        changed = "" if row["changed_in"] is None else f"#{row['changed_in']}"
        where = row["pack"] or ("inline" if row["bytes"] is not None else "")
        typer.echo(f"{size:>14}  {changed:>7}  {where:<24}  {row['name']}")


def _row(name: str, entry: Entry | None) -> dict[str, str | int | None]:
    if entry is None:
        return {"name": name + "/", "bytes": None, "changed_in": None, "pack": None}
    return {
        "name": name,
        "bytes": entry.length,
        "changed_in": entry.generation,
        "pack": entry.pack.hex() or None,
    }


def log(
    url: Url,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="How many at most.")] = None,
    as_json: Json = False,
    branch: Branch = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """List the commits of a branch, the newest first."""
    from zarrvec.faces.versions import history

    repository, _ = open_repository(url, option, storage_options, branch=branch)
    version_of(repository)
    commits = history(repository, limit=limit)
    if as_json:
        emit(commits)
        return
    for commit in commits:
        note = commit.message or "(automatic)"
        typer.echo(
            f"{commit.number:>6}  {commit.id[:12]}  {commit.time:%Y-%m-%d %H:%M:%S}  {commit.author:<12}  {note}"
        )


def diff(
    url: Url,
    old: Annotated[str, typer.Argument(help="Commit number or id, tag, or time.")],
    new: Annotated[str | None, typer.Argument(help="The same; the newest version if it is left out.")] = None,
    as_json: Json = False,
    branch: Branch = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """List the keys that differ between two versions."""
    from zarrvec.faces.versions import diff as compare

    repository, path = open_repository(url, option, storage_options, branch=branch)
    version_of(repository)
    changes = {
        key: what
        for key, what in compare(repository, old, new).items()
        if not path or key.startswith(path + "/")
    }
    if as_json:
        emit(changes)
        return
    for key, what in changes.items():
        typer.echo(f"{what:<8} {key}")
