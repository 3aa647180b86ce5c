"""What does fsspec see of one key? A file that lands as one commit when it is closed."""

from fsspec.spec import AbstractBufferedFile

from zarrvec.engine.bridge import run_sync
from zarrvec.engine.reader import Request


class ZarrVecFile(AbstractBufferedFile):
    """One key as a file; what is written lands as one commit when it is closed."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        fs = self.fs
        found = run_sync(fs.repository.read_one(Request(fs.key_of(self.path), (start, end))))
        if found is None:
            raise FileNotFoundError(self.path)
        return bytes(found.data)

    def _initiate_upload(self) -> None:
        if "a" in self.mode and self.fs.exists(self.path):
            written = self.buffer.getvalue()
            self.buffer.seek(0)
            self.buffer.write(self.fs.cat_file(self.path) + written)

    def _upload_chunk(self, final: bool = False) -> bool:
        if not final:
            return False
        fs = self.fs
        key, value = fs.key_of(self.path), self.buffer.getvalue()
        run_sync(fs._create(key, value) if "x" in self.mode else fs.repository.write({key: value}))
        return True
