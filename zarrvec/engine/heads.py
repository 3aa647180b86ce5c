"""Which commit is the newest of a branch, and which one does a reference name?

Opening is LIST and GET; asking for a newer one is a GET of the next number, which need not exist.
Source: ``specs/commit.md``, sections "Opening" and "References".
"""

import asyncio
import math
import re
import time
from datetime import UTC, datetime
from typing import Final

from zarrvec.engine.version import Version, empty_version, open_version
from zarrvec.errors import CorruptError, OptionError, RefNotFoundError, StoredBytesError
from zarrvec.format.commit import Commit, commit_name, commit_number, decode_commit
from zarrvec.objects.protocol import ObjectInfo, Objects

TRUST_NEXT_SECONDS: Final = 300.0
"""After this long without a look, the next number proves nothing: old automatic commits are dropped."""
ALONE_SECONDS: Final = 1.0
"""For so long after two commits of this process in a row nobody else is expected to commit."""
MIN_ID_DIGITS: Final = 8
_REF_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def now() -> float:
    """Return the clock by which looks for newer commits are timed, in seconds; it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def check_ref_name(kind: str, name: object) -> str:
    """Return a branch's or tag's name if it may be used.

    Raises
    ------
    OptionError
        If it is not letters, digits, dot, dash and underscore, starting with a letter or digit.
    """
    if not isinstance(name, str) or not _REF_NAME.fullmatch(name) or ".." in name:
        raise OptionError(
            f"{kind}={name!r}: expected up to 200 letters, digits, '.', '-' and '_', starting with a letter or digit."
        )
    return name


def branch_prefix(branch: str) -> str:
    """Return where the commits of a branch are."""
    return f"refs/heads/{branch}/"


def commit_path(branch: str, number: int) -> str:
    """Return where a commit is."""
    return branch_prefix(branch) + commit_name(number)


def tag_path(tag: str) -> str:
    """Return where a tag is."""
    return f"refs/tags/{tag}"


def marker_path(branch: str) -> str:
    """Return where it stands that a branch's name is taken, and at which commit it began."""
    return f"refs/branches/{branch}"


async def read_commit(objects: Objects, path: str) -> Commit | None:
    """Read a commit or a tag, once more if it is damaged: a bit may have flipped on the way."""
    name = f"{objects.name}/{path}"
    data = await objects.get(path)
    if data is None:
        return None
    try:
        return decode_commit(data, name=name)
    except StoredBytesError:
        again = await objects.get(path)
        return None if again is None else decode_commit(again, name=name)


class Heads:
    """The newest commit of one branch, as far as this process knows.

    Parameters
    ----------
    objects
        The object storage.
    branch
        Name of the branch.
    """

    def __init__(self, objects: Objects, branch: str) -> None:
        self._objects = objects
        self.branch = check_ref_name("branch", branch)
        self._head: Version | None = None
        self._listed: ObjectInfo | None = None
        self._checked_at = -1.0
        self._listed_at = -1.0
        self._landed = 0
        """Number of the newest commit that was made here."""
        self._alone_at = -math.inf
        """When it landed, if the one before it was made here, too."""
        self._looking: asyncio.Task[None] | None = None

    async def current(self, *, checked_after: float, listed_after: float = -1.0) -> Version:
        """Return the newest version.

        Parameters
        ----------
        checked_after
            By `now`: an older look is repeated.
        listed_after
            An older listing is repeated: it also sees a store that was deleted and made anew.
        """
        while self._head is None or self._checked_at < checked_after or self._listed_at < listed_after:
            if self._looking is None or self._looking.done():  # one that is done was begun too early
                self._looking = asyncio.ensure_future(self._look(by_list=self._listed_at < listed_after))
                self._looking.add_done_callback(self._looked)
            await asyncio.shield(self._looking)
        return self._head

    def known(self, *, checked_after: float) -> Version | None:
        """Return the newest version if that is known without a look, from any thread; None otherwise."""
        checked_at, head = self._checked_at, self._head  # in this order: the head only becomes newer
        return head if checked_at >= checked_after and head is not None and head.number else None

    def _looked(self, task: object) -> None:
        if self._looking is task:
            self._looking = None

    def is_trusted(self) -> bool:
        """Whether the newest commit known is so new that the number after it can't have been dropped already."""
        return self._checked_at > now() - TRUST_NEXT_SECONDS

    def landed(self, version: Version) -> None:
        """Take note of a commit that was made here."""
        self._head, self._listed, self._checked_at = version, None, now()
        self._alone_at = self._checked_at if version.number == self._landed + 1 else -math.inf
        self._landed = version.number

    def is_alone(self) -> bool:
        """Whether nobody but this process seems to commit: what rests on the newest commit known will most likely land."""
        head = self._head
        return head is not None and head.number == self._landed and self._alone_at > now() - ALONE_SECONDS

    def saw(self, version: Version) -> None:
        """Take note of a commit of another that was met by chance; there may be newer ones."""
        if self._head is None or version.number > self._head.number:
            self._head, self._listed = version, None

    async def _look(self, *, by_list: bool) -> None:
        started = now()
        head = self._head
        if by_list or head is None or not head.number or started - self._checked_at > TRUST_NEXT_SECONDS:
            await self.newest()
            return
        newer = await self.read(head.number + 1)
        if newer is not None:
            self.saw(open_version(newer, near=head))
            await self.newest()
        elif self._head is head:
            self._checked_at = started

    async def newest(self) -> Version:
        """List the branch and open its newest commit."""
        started = now()
        before = self._head
        for _ in range(8):
            listed = await self._objects.list(branch_prefix(self.branch), limit=1)
            info = listed[0] if listed else None
            number = 0 if info is None else commit_number(info.path.rpartition("/")[2])
            if number is None:
                raise CorruptError(
                    f"{self._objects.name}/{info.path if info else ''}: expected a commit, such as {commit_name(1)}."
                )
            if self._overtaken(before, number):
                break
            if (
                self._head is not None
                and self._head.number == number
                and (info == self._listed or not number)
            ):
                head = self._head
            elif number == 0:
                head = empty_version()
            else:
                commit = await self.read(number)
                if self._overtaken(before, number):
                    break
                if commit is None:
                    continue  # dropped between the two requests: there are newer ones
                known = self._head.commit if self._head is not None else None
                same = known is not None and known.write_id == commit.write_id and self._head is not None
                head = (
                    self._head if same and self._head is not None else open_version(commit, near=self._head)
                )
            self._head, self._listed = head, info
            self._checked_at = self._listed_at = started
            return head
        else:
            raise CorruptError(
                f"{self._objects.name}/{branch_prefix(self.branch)}: the commits that it lists are not there."
            )
        assert self._head is not None
        self._checked_at, self._listed_at = max(self._checked_at, started), started
        return self._head

    def _overtaken(self, before: Version | None, number: int) -> bool:
        """Return whether a commit as new as the listed one was made or met here while it was looked for."""
        return self._head is not before and self._head is not None and self._head.number >= number > 0

    async def read(self, number: int) -> Commit | None:
        """Read a commit of this branch by its number."""
        path = commit_path(self.branch, number)
        commit = await read_commit(self._objects, path)
        if commit is not None and commit.number != number:
            raise CorruptError(
                f"{self._objects.name}/{path}: holds commit {commit.number}, expected {number}."
            )
        return commit

    async def numbers(self) -> list[int]:
        """List the numbers of the commits that this branch still has, the newest first."""
        listed = await self._objects.list(branch_prefix(self.branch))
        numbers = [commit_number(info.path.rpartition("/")[2]) for info in listed]
        return sorted((number for number in numbers if number is not None), reverse=True)

    async def resolve(self, ref: object) -> Commit:
        """Find the commit that a reference names: a number, a tag, the start of an id, or a time.

        Raises
        ------
        RefNotFoundError
            If there is none.
        OptionError
            If it is none of these.
        """
        if isinstance(ref, datetime):
            return await self._at_time(ref)
        if isinstance(ref, bool) or not isinstance(ref, str | int) or ref == "":
            raise OptionError(f"at={ref!r}: expected a commit number, the start of an id, a tag, or a time.")
        text, commit = str(ref), None
        if text.isdecimal() and text.isascii() and len(text) < 20 and 0 < int(text) < 1 << 63:
            commit = await self.read(int(text))
        if commit is None and isinstance(ref, str):
            commit = await self._tagged(text)
            if commit is None and len(text) >= MIN_ID_DIGITS and re.fullmatch("[0-9a-f]+", text):
                commit = await self._by_id(text)  # before times: digits alone may be one
            if commit is None and (when := _parse_time(text)) is not None:
                return await self._at_time(when)
        if commit is None:
            raise RefNotFoundError(
                f"{self._objects.name}: there is no commit, tag or time {ref!r} on branch {self.branch!r}. "
                "`zarrvec log` lists the commits; a time is written 2026-01-31T12:00:00 (UTC unless it says otherwise)."
            )
        return commit

    async def _tagged(self, name: str) -> Commit | None:
        if not _REF_NAME.fullmatch(name) or ".." in name:
            return None
        return await read_commit(self._objects, tag_path(name))

    async def _by_id(self, start: str) -> Commit | None:
        for number in await self.numbers():
            commit = await self.read(number)
            if commit is not None and commit.write_id.hex().startswith(start):
                return commit
        return None

    async def _at_time(self, when: datetime) -> Commit:
        """Find the newest commit that is not younger than a time, by halving."""
        when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        limit_us = int(when.timestamp() * 1e6)
        numbers = (await self.numbers())[::-1]
        best: Commit | None = None
        low, high = 0, len(numbers)
        while low < high:
            middle = (low + high) // 2
            commit = await self.read(numbers[middle])
            if commit is None:
                numbers.pop(middle)
                high -= 1
            elif commit.time_us <= limit_us:
                best, low = commit, middle + 1
            else:
                high = middle
        if best is None:
            raise RefNotFoundError(
                f"{self._objects.name}: branch {self.branch!r} has no commit as old as {when.isoformat()}."
            )
        return best


def _parse_time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
