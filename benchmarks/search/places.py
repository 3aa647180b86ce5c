"""Where does a system keep its data: on the S3 server, or in a local copy?"""

import dataclasses
import os
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

from zarrvec.testing.s3server import S3Bucket

_PUTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A prefix in a bucket or a local directory; exactly one of the two is given."""

    bucket: S3Bucket | None = None
    directory: str | None = None

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``, or the path of the directory."""
        if self.bucket is None:
            return str(self.directory)
        return self.bucket.url

    def through(self, endpoint_url: str) -> "Place":
        """Return the same prefix as reached by another endpoint."""
        if self.bucket is None:
            raise ValueError(f"{self.directory} is a directory: it is reached by no endpoint")
        return Place(bucket=dataclasses.replace(self.bucket, endpoint_url=endpoint_url))

    def store(self) -> S3Store:
        """Return an obstore client of the prefix."""
        if self.bucket is None:
            raise ValueError(f"{self.directory} is a directory: it needs no client")
        return S3Store(**self.bucket.obstore_options)

    def stored_bytes(self) -> int:
        """Return the bytes of all objects."""
        return sum(meta["size"] for batch in obstore.list(self.store()) for meta in batch)

    def download(self, directory: Path) -> None:
        """Copy all objects to a local directory, replacing what was there."""
        shutil.rmtree(directory, ignore_errors=True)
        store = self.store()
        for batch in obstore.list(store):
            for meta in batch:
                path = directory / meta["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    for part in obstore.get(store, meta["path"]).stream():
                        file.write(part)

    def upload(self, directory: Path) -> None:
        """Copy all files of a local directory to the prefix."""
        store = self.store()
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                obstore.put(store, path.relative_to(directory).as_posix(), path)

    def put_seconds(self, size_bytes: int) -> float:
        """Return what one PUT of so many bytes takes: the median of some."""
        store, data = self.store(), os.urandom(size_bytes)
        taken = []
        for _ in range(_PUTS):
            start = time.perf_counter()
            obstore.put(store, "one-object", data, use_multipart=False)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    def clear(self) -> None:
        """Delete all objects."""
        store = self.store()
        for batch in obstore.list(store):
            obstore.delete(store, [meta["path"] for meta in batch])

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` makes the place of, with its credentials."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Place":
        """Return the place that `to_json` described."""
        bucket = values["bucket"]
        return Place(bucket=None if bucket is None else S3Bucket(**bucket), directory=values["directory"])
