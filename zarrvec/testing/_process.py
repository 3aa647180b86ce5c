"""How a helper process is started so that it ends with its owner, and by nobody else.

Rules that hold here: the child runs in its own session and process group; it is ended by the process that
started it and by no forked copy of it; a watcher in its group ends it when that process dies without a word.
"""

import contextlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

# The watcher blocks on a pipe whose other end the starting process holds: end of file means that it is gone.
_WATCHED: Final = (
    'exec 9<&0; (read -r _ <&9; kill -KILL $$; rm -rf -- {}) >/dev/null 2>&1 & exec "$@" 9<&- </dev/null'
)


class HelperProcess:
    """A process in a group of its own, ended with its owner.

    Parameters
    ----------
    argv
        The command.
    env
        Its whole environment; the present one if not given.
    cwd
        Its working directory.
    output
        Where its output goes; a pipe for `read_line` if not given (errors then go where ours go).
    leftovers
        Files and directories to delete once the process has ended.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        output: IO[bytes] | None = None,
        leftovers: Sequence[Path] = (),
    ) -> None:
        watched = _WATCHED.format(shlex.join(map(str, leftovers)))
        self._popen = subprocess.Popen(  # noqa: S603 - the command is ours
            ["/bin/sh", "-c", watched, "zarrvec", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if output is None else output,
            stderr=None if output is None else output,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        self._finalizer = weakref.finalize(self, _end, self._popen, os.getpid(), leftovers)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the process group."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._popen.poll() is None

    def read_line(self, timeout_seconds: float) -> bytes:
        """Read one line of the process's output; empty if it ends or says nothing in time."""
        pipe = self._popen.stdout
        if pipe is None:
            return b""
        line = b""
        deadline = time.monotonic() + timeout_seconds
        while not line.endswith(b"\n"):
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return b""
            piece = os.read(pipe.fileno(), 1024)
            if not piece:
                return b""
            line += piece
        return line

    def end(self) -> None:
        """End the process and wait until it is gone; nothing happens a second time or in a forked child."""
        self._finalizer()


def _end(popen: subprocess.Popen[bytes], owner_pid: int, leftovers: Sequence[Path]) -> None:
    if os.getpid() != owner_pid:
        return
    if popen.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    popen.wait()
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
