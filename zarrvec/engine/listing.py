"""Which keys and folders lie below a prefix?

Source: ``specs/storage-operations.md``, section "Listings".
"""

from collections.abc import AsyncIterator

from zarrvec.engine.reader import Reader
from zarrvec.engine.version import View
from zarrvec.format.keys import is_below, is_metadata, sort_key
from zarrvec.format.manifest import Root
from zarrvec.layout.delta import Delta
from zarrvec.types import Entry, PageRef

_PAGES_AT_ONCE = 64


async def list_entries(reader: Reader, view: View, prefix: str) -> AsyncIterator[tuple[str, Entry]]:
    """Yield the keys below a prefix and their entries; those of pages first."""
    changed = view.changed()
    root = await reader.root(view.version)
    numbers = root.pages_below(prefix)
    for start in range(0, len(numbers), _PAGES_AT_ONCE):
        refs = [root.pages[number] for number in numbers[start : start + _PAGES_AT_ONCE]]
        for table in await reader.pages(refs):
            for key, entry in table:
                if is_below(key, prefix) and changed.find(key) is None:
                    yield key, entry
    for key, entry in sorted(changed.below(prefix), key=lambda row: sort_key(row[0])):
        if not entry.is_deleted:
            yield key, entry


async def list_children(reader: Reader, view: View, prefix: str) -> dict[str, Entry | None]:
    """Return what lies directly below a prefix: entries of keys, None for folders.

    A page whose keys all lie in one folder is not read.
    """
    changed = view.changed()
    root = await reader.root(view.version)
    children: dict[str, Entry | None] = {}
    unread: list[PageRef] = []
    for number in root.pages_below(prefix):
        ref = root.pages[number]
        folder = _common_folder(ref, prefix)
        if folder is None or _touched(changed, root, number):
            unread.append(ref)
        else:
            children[folder] = None
    for start in range(0, len(unread), _PAGES_AT_ONCE):
        for table in await reader.pages(unread[start : start + _PAGES_AT_ONCE]):
            for key, entry in table:
                if is_below(key, prefix) and changed.find(key) is None:
                    _add(children, key, entry, prefix)
    for key, entry in changed.below(prefix):
        if not entry.is_deleted:
            _add(children, key, entry, prefix)
    return children


async def is_empty(reader: Reader, view: View, prefix: str) -> bool:
    """Return whether no key lies below a prefix, reading no more pages than it takes to find one."""
    changed = view.changed()
    if any(not entry.is_deleted for _, entry in changed.below(prefix)):
        return False
    root = await reader.root(view.version)
    for number in root.pages_below(prefix):
        (table,) = await reader.pages([root.pages[number]])
        if any(is_below(key, prefix) and changed.find(key) is None for key in table.keys):
            return False
    return True


def _add(children: dict[str, Entry | None], key: str, entry: Entry, prefix: str) -> None:
    name, slash, _ = key[len(prefix) + 1 if prefix else 0 :].partition("/")
    if slash:
        children.setdefault(name, None)
    else:
        children[name] = entry


def _common_folder(ref: PageRef, prefix: str) -> str | None:
    """Return the folder directly below the prefix in which all keys of a page lie."""
    start = len(prefix) + 1 if prefix else 0
    if not (is_below(ref.first, prefix) and is_below(ref.last, prefix)):
        return None
    if is_metadata(ref.first) != is_metadata(ref.last):
        return None  # between its ends stand keys of other folders
    first, slash, _ = ref.first[start:].partition("/")
    last, other_slash, _ = ref.last[start:].partition("/")
    return first if slash and other_slash and first == last else None


def _touched(changed: Delta, root: Root, number: int) -> bool:
    """Return whether keys of a page were deleted since."""
    if changed.clears:
        return True
    return any(entry.is_deleted and root.page_of(key) == number for key, entry in changed.entries.items())
