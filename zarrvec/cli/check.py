"""Is a store whole? ``verify``."""

from typing import Annotated

import typer

from zarrvec.cli.common import (
    At,
    Branch,
    Json,
    Options,
    StorageOptions,
    Url,
    byte_progress,
    emit,
    human_bytes,
    open_repository,
)
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.verification import Verification
from zarrvec.engine.verification import verify as verify_version
from zarrvec.errors import NotAStoreError


def verify(
    url: Url,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print damage only.")] = False,
    as_json: Json = False,
    branch: Branch = None,
    at: At = None,
    option: Options = None,
    storage_options: StorageOptions = None,
) -> None:
    """Read every byte that a version reaches against its checksum. Exit code 1 if there is damage."""
    repository, _ = open_repository(url, option, storage_options, branch=branch)

    with byte_progress() as progress:
        task = progress.add_task("verify", total=None)

        async def check() -> Verification:
            engine = await repository.engine()
            return await verify_version(
                engine, at, lambda done, total: progress.update(task, completed=done, total=total)
            )

        report = run_sync(check())
    if not report.number and not report.damages:
        raise NotAStoreError(f"{repository.place.name}: there is no zarrvec store; expected one.")
    if as_json:
        emit({"store": repository.place.name, "ok": not report.damages, **_fields(report)})
    else:
        for damage in report.damages:
            key = f" key {damage.key!r}" if damage.key is not None else ""
            typer.echo(f"damaged: {damage.object}{key}: {damage.problem}")
        if report.damages:
            typer.echo(
                f"{len(report.damages)} damages. Restore the objects from a copy, or write those keys again; "
                "versions from before may hold them whole.",
                err=True,
            )
        if not quiet:
            typer.echo(
                f"version {report.number}: read {report.values:,} values ({human_bytes(report.value_bytes)}), "
                f"{report.pages:,} manifest pages, {report.packs:,} packs, {report.commits:,} commits and tags: "
                + (f"{len(report.damages)} damages" if report.damages else "no damage")
            )
    if report.damages:
        raise typer.Exit(1)


def _fields(report: Verification) -> dict[str, object]:
    return {name: getattr(report, name) for name in report.__slots__}
