"""How do versions get names? ``tag``, ``branch``."""

from typing import Annotated

import typer

from zarrvec.cli.common import At, Json, Options, StorageOptions, Url, emit, open_repository, version_of
from zarrvec.engine.bridge import run_sync
from zarrvec.repository import Repository

_Name = Annotated[str | None, typer.Argument(help="Name to give; without one, the names are listed.")]


def tag(
    url: Url,
    name: _Name = None,
    at: At = None,
    as_json: Json = False,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """Give a version a fixed name, or list the tags."""
    from zarrvec.faces import versions

    repository, _ = open_repository(url, option, storage_options)
    version_of(repository)
    if name is None:
        _show(_refs(repository)[1], as_json)
        return
    commit = versions.tag(repository, name, at=at)
    _done(f"tag {name} names commit {commit.number} ({commit.id[:12]})", commit, as_json)


def branch(
    url: Url,
    name: _Name = None,
    at: At = None,
    as_json: Json = False,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """Begin a branch at a version, or list the branches."""
    from zarrvec.faces import versions

    repository, _ = open_repository(url, option, storage_options)
    if name is None:
        branches = _refs(repository)[0]
        if not branches:
            version_of(repository)
        _show(branches, as_json)
        return
    version_of(repository)
    commit = versions.branch(repository, name, at=at)
    _done(f"branch {name} begins at commit {commit.number} ({commit.id[:12]})", commit, as_json)


def _refs(repository: Repository) -> tuple[list[str], list[str]]:
    async def names() -> tuple[list[str], list[str]]:
        return await (await repository.engine()).refs()

    return run_sync(names())


def _show(names: list[str], as_json: bool) -> None:
    if as_json:
        emit(names)
        return
    for name in names:
        typer.echo(name)


def _done(text: str, commit: object, as_json: bool) -> None:
    if as_json:
        emit(commit)
    else:
        typer.echo(text)
