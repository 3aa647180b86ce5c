"""What does one process do for the benchmark, and how long does it take?

``python -m benchmarks.search.worker MODULES`` imports the modules (comma-separated), reports the seconds that took, and
then carries out commands, one JSON object a line, and answers each with one. Whoever reads the answers may count
requests between two of them. `WorkerProcess` is the side that asks.

Some packages load all that they are made of when they are imported, others at the first use. So that the time of a cold
search holds the imports of neither, the modules include those that an earlier process has loaded during its first search.
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_ENVIRONMENT = {
    "LANCE_CPU_THREADS": "16",
    "LANCE_LOG": "error",
    "PYTHONDONTWRITEBYTECODE": "",  # else a checkout, unlike what is installed, is compiled anew by each process
}
_ROOT = Path(__file__).resolve().parents[2]


class WorkerProcess:
    """A fresh process for one line of the comparison; use it as a context manager.

    Parameters
    ----------
    entry
        The name of the line, a key of `benchmarks.search.systems.ENTRIES`.
    modules
        What it imports before it is ready, in this order.
    data
        The keyword arguments of `benchmarks.search.problem.load`.
    """

    def __init__(self, entry: str, modules: Sequence[str], data: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.search.worker", ",".join(modules)],
            cwd=_ROOT,
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.import_seconds: float = self._read()["import_seconds"]
        self.ask("prepare", entry=entry, data=data)

    def ask(self, command: str, **arguments: Any) -> Any:
        """Have a command carried out, and return its answer.

        Raises
        ------
        RuntimeError
            The command failed; the worker has written the traceback to its standard error.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with status {self._process.wait()}: see its output above")
        return json.loads(line)


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    start = time.perf_counter()
    for name in sys.argv[1].split(","):
        with contextlib.suppress(
            ImportError
        ):  # a few names are made by other modules, and not to be found by themselves
            importlib.import_module(name)
    print(json.dumps({"import_seconds": time.perf_counter() - start}), file=answers)
    from benchmarks.search.tasks import Tasks

    tasks = Tasks()
    for line in sys.stdin:
        arguments = json.loads(line)
        result = getattr(tasks, arguments.pop("command"))(**arguments)
        print(json.dumps(result), file=answers)


if __name__ == "__main__":
    main()
