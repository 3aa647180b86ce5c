"""Which options does obstore need for what s3fs, gcsfs and adlfs users write?

What can't be translated sends the store to the fsspec backend; an unknown option is an error that names it.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from zarrvec.errors import OptionError

_TIMEOUTS: Final = {"connect_timeout": "5s", "timeout": "60s"}
RETRIES: Final = {"max_retries": 6, "retry_timeout": 60}

_HARMLESS: Final = frozenset(
    {
        "asynchronous", "loop", "skip_instance_cache", "use_listings_cache", "listings_expiry_time", "max_paths",
        "default_block_size", "default_fill_cache", "default_cache_type", "cache_regions", "max_concurrency",
        "fixed_upload_size", "local_expiry_check", "block_size", "cache_timeout", "batch_time", "timeout",
        "default_location", "consistency", "check_connection",
    }
)  # fmt: skip
"""Options of fsspec filesystems that change nothing for whole objects and ranges."""

_S3_FSSPEC_ONLY: Final = frozenset(
    {"profile", "config_kwargs", "s3_additional_kwargs", "session", "version_aware", "username", "password"}
)
_GCS_FSSPEC_ONLY: Final = frozenset(
    {"project", "access", "secure_serialize", "session_kwargs", "requester_pays", "endpoint_url"}
)
_AZURE_FSSPEC_ONLY: Final = frozenset(
    {"connection_string", "request_session", "socket_timeout", "credential", "location_mode"}
)


class Translation(NamedTuple):
    """What obstore's constructor is given."""

    config: dict[str, Any]
    """Configuration of the store."""
    client_options: dict[str, Any]
    """Configuration of its HTTP client."""


def translate(protocol: str, options: Mapping[str, Any]) -> Translation | None:
    """Translate fsspec-style options of S3, GCS or Azure for obstore.

    Returns
    -------
    Translation or None
        None if only the fsspec backend can honour them.

    Raises
    ------
    OptionError
        If an option is known to neither.

    Examples
    --------
    >>> translate("s3", {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:9000"}).config
    {'access_key_id': 'k', 'secret_access_key': 's', 'endpoint': 'http://127.0.0.1:9000', 'region': 'us-east-1', 'unsigned_payload': True}
    """
    translators: dict[str, Callable[[dict[str, Any]], Translation | None]] = {
        "s3": _s3, "s3a": _s3, "gs": _gcs, "gcs": _gcs, "az": _azure, "abfs": _azure, "abfss": _azure,
    }  # fmt: skip
    relevant = {name: value for name, value in options.items() if name not in _HARMLESS and value is not None}
    return translators[protocol](relevant)


def _refuse_unknown(protocol: str, options: Mapping[str, Any], known: frozenset[str] | set[str]) -> None:
    unknown = sorted(set(options) - known)
    if unknown:
        raise OptionError(
            f"Unknown option {unknown[0]!r} for {protocol}; expected some of {', '.join(sorted(known))}. "
            f"Options of zarrvec itself go under the key 'zarrvec' of storage_options."
        )


_AWS: Final = "https://amazonaws.com"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

_S3_NAMES: Final = {"key": "access_key_id", "secret": "secret_access_key", "token": "session_token"}


def _s3(options: dict[str, Any]) -> Translation | None:
    known = {*_S3_NAMES, "anon", "endpoint_url", "use_ssl", "client_kwargs", "requester_pays"}
    _refuse_unknown("s3", options, known | _S3_FSSPEC_ONLY)
    if _S3_FSSPEC_ONLY & options.keys():
        return None
    client = dict(options.get("client_kwargs") or {})
    names = {
        "endpoint_url": "endpoint_url",
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
        "aws_session_token": "token",
    }
    merged = {name: value for name, value in options.items() if name != "client_kwargs"}
    for theirs, ours in names.items():
        if theirs in client:
            merged[ours] = client.pop(theirs)
    region = (
        client.pop("region_name", None)
        or os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
    )
    verify = client.pop("verify", True)
    if client or not isinstance(verify, bool):
        return None
    config: dict[str, Any] = {new: str(merged[old]) for old, new in _S3_NAMES.items() if old in merged}
    if merged.get("anon"):
        config["skip_signature"] = True
    elif "access_key_id" not in config and not _s3_environment_has_keys():
        return None
    endpoint = (
        merged.get("endpoint_url")
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    if endpoint:
        config["endpoint"] = str(endpoint)
    config["region"] = region or "us-east-1"
    if merged.get("requester_pays"):
        config["request_payer"] = True
    client_options: dict[str, Any] = dict(_TIMEOUTS)
    if str(endpoint or "").startswith("http:") or merged.get("use_ssl") is False:
        client_options["allow_http"] = True
    if not verify:
        client_options["allow_invalid_certificates"] = True
    if "skip_signature" not in config and _guards_payloads(str(endpoint or _AWS), client_options):
        config["unsigned_payload"] = True
    return Translation(config, client_options)


def _guards_payloads(endpoint: str, client_options: Mapping[str, Any]) -> bool:
    """Whether what is written needs no SHA-256 in its signature: on the way to AWS, TLS guards it, and loopback itself.

    Other servers may refuse such signatures. Source: ``specs/decisions/0018-payloads-not-signed.md``.
    """
    host = urlsplit(endpoint).hostname or ""
    if host in _LOOPBACK:
        return True
    is_aws = host == "amazonaws.com" or host.endswith(".amazonaws.com")
    return is_aws and not client_options.keys() & {"allow_http", "allow_invalid_certificates"}


def _s3_environment_has_keys() -> bool:
    """Whether obstore finds credentials by itself; shared credential files and profiles only botocore reads."""
    environment = os.environ
    if "AWS_PROFILE" in environment:
        return False
    if "AWS_ACCESS_KEY_ID" in environment or "AWS_WEB_IDENTITY_TOKEN_FILE" in environment:
        return True
    shared = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    config = Path(environment.get("AWS_CONFIG_FILE", "~/.aws/config")).expanduser()
    return not (shared.exists() or config.exists())


def _gcs(options: dict[str, Any]) -> Translation | None:
    _refuse_unknown("gcs", options, {"token", "anon"} | _GCS_FSSPEC_ONLY)
    if _GCS_FSSPEC_ONLY & options.keys():
        return None
    token = options.get("token")  # a path, or one of two words
    if options.get("anon") or token == "anon":  # noqa: S105 - a word of gcsfs
        return Translation({"skip_signature": True}, dict(_TIMEOUTS))
    if token is None or token == "google_default":  # noqa: S105 - a word of gcsfs
        return Translation({}, dict(_TIMEOUTS))
    if isinstance(token, str) and Path(token).exists():
        return Translation({"service_account": token}, dict(_TIMEOUTS))
    return None


def _azure(options: dict[str, Any]) -> Translation | None:
    names = {
        "account_name": "account_name", "account_key": "account_key", "sas_token": "sas_key",
        "tenant_id": "tenant_id", "client_id": "client_id", "client_secret": "client_secret", "account_host": "endpoint",
    }  # fmt: skip
    _refuse_unknown("azure", options, {*names, "anon"} | _AZURE_FSSPEC_ONLY)
    if _AZURE_FSSPEC_ONLY & options.keys():
        return None
    config: dict[str, Any] = {new: str(options[old]) for old, new in names.items() if old in options}
    if "endpoint" in config and "://" not in config["endpoint"]:
        config["endpoint"] = f"https://{config['endpoint']}"
    if options.get("anon"):
        config["skip_signature"] = True
    return Translation(config, dict(_TIMEOUTS))
