"""Which metadata documents has a handle read, and as of which commits? On what was read the writes rest.

Source: ``specs/commit.md``, section "Conflicts".
"""

from collections.abc import Mapping, Sequence

from zarrvec.engine.reader import Found
from zarrvec.engine.staging import Staging
from zarrvec.engine.version import Version
from zarrvec.format.keys import is_metadata


class Documents:
    """The metadata documents that a handle has read.

    Parameters
    ----------
    read
        Generation of each, 0 of those that were not there.
    """

    def __init__(self, read: Mapping[str, int] | None = None) -> None:
        self.read = dict(read or {})

    def note(self, keys: Sequence[str], found: Sequence[Found | None], staging: Staging | None) -> None:
        """Remember what was read: in a transaction, by what it has gathered, until it ends."""
        for key, value in zip(keys, found, strict=True):
            if not is_metadata(key):
                continue
            generation = 0 if value is None else value.generation
            if staging is None:
                self.read[key] = generation
            else:
                staging.note_document(key, generation)

    def expect(self, staging: Staging, key: str) -> None:
        """Let the write of a document rest on what was read of it, if anything was."""
        if not is_metadata(key):
            return
        generation = staging.read_documents.get(key, self.read.get(key))
        if generation is not None:
            staging.expect(key, generation)

    def note_end(self, staging: Staging) -> None:
        """Remember what was read inside a transaction; others may have read newer ones meanwhile."""
        for key, generation in staging.read_documents.items():
            self.read[key] = max(generation, self.read.get(key, 0))

    def note_written(self, staging: Staging, version: Version) -> None:
        """Remember what was written as read."""
        self.note_end(staging)
        for clear in staging.view.overlay.clears:
            inside = clear.prefix + "/" if clear.prefix else ""
            self.read.update((key, 0) for key in self.read if key.startswith(inside))
        for key in staging.written_documents():
            is_deleted = staging.view.overlay.entries[key].is_deleted
            self.read[key] = 0 if is_deleted else version.number
