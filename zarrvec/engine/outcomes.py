"""How does a commit fail: stale, or so that nobody can tell?"""

from zarrvec.errors import ConflictError, StorageError, UnknownOutcomeError


class StaleError(ConflictError):
    """What a write was based on has changed; the caller may read again and redo it."""


def stale_error(keys: list[str]) -> StaleError:
    """Make the error for keys that changed."""
    shown = ", ".join(repr(key) for key in keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
    return StaleError(
        f"Another writer changed {shown} after this handle last read it; nothing of this write landed. "
        "Open the array or group again and redo the change.",
        keys=tuple(keys),
    )


def unknown_outcome(name: str, path: str, cause: StorageError | None) -> UnknownOutcomeError:
    """Make the error for a commit object that could neither be made nor read back."""
    return UnknownOutcomeError(
        f"{name}/{path}: the storage did not say whether the commit landed ({cause or 'the name is being created'}). "
        "Open the store again and look at its newest commit before writing again."
    )
