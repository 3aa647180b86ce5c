"""How does a user see how far a long task has come?"""

from collections.abc import Iterator
from contextlib import contextmanager

from zarrvec.search.build import Progress, silent


@contextmanager
def progress_of(asked: Progress | bool) -> Iterator[Progress]:  # noqa: FBT001 - what the user gave
    """Yield what to report to: the user's function, a bar on the terminal, or nothing.

    Examples
    --------
    >>> with progress_of(lambda stage, done, total: print(stage, done, total)) as report:
    ...     report("read", 1, 2)
    read 1 2
    """
    if callable(asked):
        yield asked
        return
    if not asked:
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show
