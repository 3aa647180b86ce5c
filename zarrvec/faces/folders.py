"""What goes with a folder that is deleted? The vector index beside it: the next array of that name is another one.

Source: ``specs/vector-index.md``, section "Changes".
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from zarrvec.engine.reader import Request
from zarrvec.engine.staging import Staging
from zarrvec.faces.renumbering import INDEX_ATTRIBUTE, INDEX_DOCUMENT
from zarrvec.repository import Repository, StaleError

_REDO_LIMIT: Final = 20


async def delete_folders(
    repository: Repository, prefixes: Sequence[str], *, deletes: Iterable[str] = ()
) -> None:
    """Delete all below some prefixes, the indexes beside them, and keys, in one commit or into the open transaction."""
    deletes = tuple(deletes)
    for left in reversed(range(_REDO_LIMIT)):
        staging = await repository.begin()
        await clear_folders(repository, staging, prefixes)
        await repository.stage(staging, {}, deletes)
        try:
            await repository.finish(staging)
        except StaleError:  # an index came meanwhile, perhaps
            if not left:
                raise
        else:
            return


async def clear_folders(repository: Repository, staging: Staging, prefixes: Sequence[str]) -> None:
    """Clear prefixes and the indexes beside them; where none is seen, the change rests on that."""
    documents = [prefix + INDEX_DOCUMENT for prefix in prefixes if prefix]
    reader = (await repository.engine()).reader
    found = await reader.read(staging.view, [Request(key) for key in documents])
    for key, document in zip(documents, found, strict=True):
        if document is None:
            staging.expect(key, 0)
        elif _is_index(document.data):
            staging.clear(key.removesuffix("/zarr.json"))
    for prefix in prefixes:
        staging.clear(prefix)


def _is_index(document: bytes) -> bool:
    """Return whether a metadata document is that of the group of an index, and not of anything else.

    Examples
    --------
    >>> _is_index(b'{"attributes": {"zarrvec_index": {}}}'), _is_index(b'{"attributes": {}}'), _is_index(b"[]")
    (True, False, False)
    """
    try:
        return INDEX_ATTRIBUTE in msgspec.json.decode(document)["attributes"]
    except (msgspec.DecodeError, LookupError, TypeError):
        return False
