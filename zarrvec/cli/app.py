"""Which commands are there, and what does a script learn from the exit code?

====  ==========================================================
code  meaning
====  ==========================================================
0     all is well
1     something was found: damage
2     the call is wrong: a URL, an option, a key, a version
3     the storage failed, or another writer was first
====  ==========================================================
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from zarrvec.cli.check import verify
from zarrvec.cli.demo import demo
from zarrvec.cli.index import index
from zarrvec.cli.look import diff, info, log, ls
from zarrvec.cli.pack import pack
from zarrvec.cli.plan import plan
from zarrvec.cli.rechunk import rechunk
from zarrvec.cli.refs import branch, tag
from zarrvec.cli.replan import replan
from zarrvec.cli.search import search
from zarrvec.errors import CallerError, StoredBytesError, ZarrVecError
from zarrvec.types import VERSION

FOUND: Final = 1
WRONG_CALL: Final = 2
FAILED: Final = 3


def exit_code(error: Exception) -> int:
    """Return the exit code for an error.

    Examples
    --------
    >>> from zarrvec.errors import AccessError, OptionError
    >>> exit_code(OptionError("a")), exit_code(AccessError("b"))
    (2, 3)
    """
    if isinstance(error, StoredBytesError):
        return FOUND
    return WRONG_CALL if isinstance(error, CallerError | FileNotFoundError) else FAILED


class Commands(TyperGroup):
    """Shows errors of zarrvec as their message, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ZarrVecError, OSError) as error:
            typer.echo(f"zarrvec: {error}", err=True)
            raise typer.Exit(exit_code(error)) from error


app = typer.Typer(
    cls=Commands,
    name="zarrvec",
    help="Zarr stores on object storage: packed, atomic, versioned, searchable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_COMMANDS: Final[tuple[Callable[..., None], ...]] = (
    info, ls, log, diff, tag, branch, verify, pack, plan, replan, rechunk, search, demo,
)  # fmt: skip
for _command in _COMMANDS:
    app.command()(_command)
app.add_typer(index)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"zarrvec {VERSION}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version
