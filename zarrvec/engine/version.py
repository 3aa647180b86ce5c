"""What is open when a version is open, and what does a reader see of it?"""

from dataclasses import dataclass, field

from zarrvec.format.commit import Commit, commit_name, encode_commit
from zarrvec.format.manifest import Root, decode_root
from zarrvec.format.table import Table
from zarrvec.layout.delta import Delta
from zarrvec.types import Entry


@dataclass(slots=True, kw_only=True, eq=False)
class Version:
    """One commit, opened. The root is None until it was read, where the commit only says where it is."""

    commit: Commit | None
    """None before the first commit."""
    delta: Delta
    """Changes since the root."""
    root: Root | None

    @property
    def number(self) -> int:
        """Number of the commit, 0 before the first."""
        return 0 if self.commit is None else self.commit.number

    def packs(self) -> dict[bytes, int]:
        """Return the packs that the version names, and the bytes of values in each; the root must have been read."""
        packs = dict(self.root.packs) if self.root is not None else {}
        if self.commit is not None:
            packs.update(self.commit.packs)
        return packs

    def encoded(self) -> bytes:
        """Return the bytes of the commit object; empty before the first commit."""
        return b"" if self.commit is None else encode_commit(self.commit)


def empty_version() -> Version:
    """Return the version of a store that has no commit yet."""
    return Version(commit=None, delta=Delta(), root=Root())


def open_version(commit: Commit, *, near: Version | None = None) -> Version:
    """Open a commit; the root is shared with a version near it where they have the same one.

    Raises
    ------
    CorruptError
        If the delta or the root does not hold.
    """
    name = f"commit {commit.number} ({commit_name(commit.number)})"
    table = Table(commit.delta, name=name)
    root: Root | None = None
    if near is not None and _root_identity(near.commit) == _root_identity(commit):
        root = near.root
    elif commit.root:
        root = decode_root(commit.root, name=name, number=commit.root_number or commit.number)
    elif commit.root_at is None:
        root = Root()
    return Version(commit=commit, delta=Delta(dict(iter(table)), commit.clears), root=root)


def same_root(left: Version, right: Version) -> bool:
    """Return whether two versions stand on the same root."""
    return _root_identity(left.commit) == _root_identity(right.commit)


def _root_identity(commit: Commit | None) -> object:
    if commit is None or not (commit.root or commit.root_at):
        return None
    return commit.root, commit.root_at, commit.root_number or commit.number


@dataclass(slots=True, kw_only=True, eq=False)
class View:
    """What one read sees: a version, with the writes of an open transaction on top."""

    version: Version
    overlay: Delta = field(default_factory=Delta)

    def find(self, key: str) -> Entry | None:
        """Return what is known without pages: an entry, perhaps deleted; None means ask the pages."""
        entry = self.overlay.find(key) if self.overlay else None
        return entry if entry is not None else self.version.delta.find(key)

    def changed(self) -> Delta:
        """Return all that stands above the pages, as one delta; what an open transaction wrote has generation 0."""
        return self.version.delta.updated(self.overlay, 0) if self.overlay else self.version.delta
