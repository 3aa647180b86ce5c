"""Which errors zarrvec raises, grouped by what a handler would do.

======================  ==========================================================
group                   what the handler does
======================  ==========================================================
`CallerError`           mends the call: a wrong option, key, reference or query
`ConflictError`         reads again and redoes its change
`StorageError`          looks at credentials, network, bucket; may try again later
`StoredBytesError`      stops and restores: what is stored can't be trusted
`ClusterError`          looks at the workers of the cluster; calls again
======================  ==========================================================

Every message carries the offending value, what was expected, the key or object and what to do next.
"""


class ZarrVecError(Exception):
    """Base of all errors of zarrvec."""


class CallerError(ZarrVecError):
    """The call can't be carried out as it was made."""


class OptionError(CallerError, ValueError):
    """An option is unknown, of the wrong type or out of range."""


class KeyNameError(CallerError, ValueError):
    """A key can't be stored: empty, too long, with ``..`` or an empty segment."""


class ReadOnlyError(CallerError, ValueError):
    """A write through a handle that is read-only or pinned by ``at=``."""


class RefNotFoundError(CallerError, LookupError):
    """No branch, tag, commit or time of that name in this store."""


class NotAStoreError(CallerError, ValueError):
    """The URL holds something else: plain Zarr, a file, other objects."""


class TransactionError(CallerError, RuntimeError):
    """A transaction is used where it can't be: pickled, ended, or nested."""


class SearchError(CallerError, ValueError):
    """A vector search can't be carried out: shape, dtype, metric, k or NaN."""


class CodecError(CallerError, ValueError):
    """A codec can't be had as it was asked for, or can't hold a value: dtype, width, configuration, NaN."""


class PlanError(CallerError, ValueError):
    """No layout can be planned: an access, a limit, a dtype or a sample that doesn't fit the array."""


class ConflictError(ZarrVecError):
    """Another writer changed what this write was based on; nothing of it landed.

    Parameters
    ----------
    message
        What happened and what to do.
    keys
        The keys in conflict.
    """

    def __init__(self, message: str, *, keys: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.keys = keys


class StorageError(ZarrVecError, OSError):
    """The object storage refused or failed."""


class AccessError(StorageError):
    """Credentials are missing or wrong, or the bucket does not exist."""


class BackendUnsafeError(StorageError):
    """The storage has no put-if-absent: a second create of one object succeeded."""


class UnknownOutcomeError(StorageError):
    """A commit may or may not have landed: the storage failed before it could be read back."""


class MissingObjectError(StorageError):
    """An object that the manifest names is not there."""


class StoredBytesError(ZarrVecError):
    """Stored bytes are not what zarrvec wrote."""


class CorruptError(StoredBytesError):
    """A checksum, length or structure does not hold."""


class CorruptShardError(CorruptError, ValueError):
    """A shard of Zarr's own format is damaged; also a `ValueError`, as what zarr's own codec raises then."""


class FormatVersionError(StoredBytesError):
    """The store was written by a newer zarrvec, or with a feature that this one does not know."""


class ClusterError(ZarrVecError, RuntimeError):
    """The dask cluster could not do its part: no workers, or they died. Nothing of the work is to be seen."""


class PluginWarning(UserWarning):
    """A plugin is broken and was left out; what it would have added is missing, and nothing else."""
