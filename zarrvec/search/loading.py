"""When is compiled code there, and who waits for it? No search does: numpy goes on until a thread has loaded it.

The first process on a machine finds nothing compiled. Then a process of its own compiles, and leaves the result in numba's
cache; the thread waits for that, and loads it. Where many processes begin at once, as the workers of a pool do, one compiles
for all. A thread that compiles holds the GIL for seconds, of which each search pays
some, and the end of the program would have to wait for it, since LLVM is not to be interrupted. It does so only where numba
has no place for a cache, or where no process can be started.

At the end of the program the thread is waited for: while it imports numba, or loads a kernel, a tenth of a second each. The
other process ends by itself, for the good of those to come. A fork waits as well, so that the child gets no module that is
half imported and no lock of numba's that nobody releases; it has the kernels, or begins anew.
"""

import contextlib
import importlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Final

__all__ = ["BREAK_EVEN", "Loader", "compile_for_all"]

BREAK_EVEN: Final = 400_000_000
"""Products (entries * width, over all queries so far) that take numpy, at 1 ns each, as long as numba and cached code take
to load."""
_COMPILE: Final = "from zarrvec.search.loading import compile_for_all; compile_for_all()"
_POLL_SECONDS: Final = 0.05

_busy = threading.Lock()
"""Held while numba is imported, loads or compiles, and while a thread is started for that."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_busy.acquire, after_in_parent=_busy.release, after_in_child=_busy.release)


class Loader:
    """What this process knows of compiled code. Threads may race for the count: what gets lost costs nothing."""

    def __init__(self) -> None:
        self.products = 0
        """Computed by numpy."""
        self.module: ModuleType | None = None
        """The compiled kernels, once all of them are loaded."""
        self.missing = sys.byteorder != "little"
        """Whether there can't be any."""
        self._process: int | None = None
        """In which a thread was started; not in a child that was forked meanwhile."""

    def count(self, products: int) -> None:
        """Note what numpy is about to compute, and have compiled code loaded if that pays by now."""
        self.products += products
        if self.missing or self.products < BREAK_EVEN or not _busy.acquire(blocking=False):
            return
        try:
            if self._process != os.getpid():
                self._process = os.getpid()
                with contextlib.suppress(RuntimeError):  # the interpreter is ending, or there are too many
                    threading.Thread(target=self.load, name="zarrvec-compile", daemon=False).start()
        finally:
            _busy.release()

    def load(self, *, elsewhere: bool = True) -> None:
        """Load the kernels.

        Parameters
        ----------
        elsewhere
            Whether another process compiles what is not in numba's cache.
        """
        try:
            with _busy:
                module = importlib.import_module("zarrvec.search._numba_kernels")
                wanting = elsewhere and module.is_cache_wanting()
        except ImportError:  # not installed, or not for this numpy or Python
            self.missing = True
            return
        if wanting:
            _compile_elsewhere()
        for kernel, arguments in module.examples():
            if not threading.main_thread().is_alive():
                return
            with _busy:
                kernel(*arguments)
        self.module = module


def compile_for_all() -> None:
    """Compile the kernels into numba's cache; while another process does, wait, and find them there.

    Where files can't be locked each process compiles for itself.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            kernels = stack.enter_context(Path(__file__).with_name("_numba_kernels.py").open("rb"))
            fcntl.flock(kernels, fcntl.LOCK_EX)
        Loader().load(elsewhere=False)


def _compile_elsewhere() -> None:
    """Let another process fill numba's cache, and wait for it, or for the end of this one."""
    if not Path(sys.executable or "").name.startswith("python"):
        return  # an application that holds an interpreter: nobody knows what starting it does
    places = (str(Path(place).absolute()) for place in sys.path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    nowhere = subprocess.DEVNULL
    try:
        process = subprocess.Popen(  # noqa: S603 - the command is ours
            [sys.executable, "-P", "-c", _COMPILE],
            env=environment,
            stdin=nowhere,
            stdout=nowhere,
            stderr=nowhere,
        )
    except OSError:
        return
    while process.poll() is None:
        if not threading.main_thread().is_alive():
            process.returncode = 0  # it is left to itself, and Python is not to warn of that
            return
        time.sleep(_POLL_SECONDS)
