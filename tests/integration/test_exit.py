"""A process may end at any moment: right after a request, or with requests in flight."""

import subprocess
import sys
import textwrap

import pytest
import zarr

# As on a busy machine: obstore's thread has handed a result over and is held up before it has left Python.
SLOW_THREADS = """
import asyncio.selector_events, threading, time
write = asyncio.selector_events.BaseSelectorEventLoop._write_to_self
def write_slowly(self):
    write(self)
    if isinstance(threading.current_thread(), threading._DummyThread):
        time.sleep({delay})
asyncio.selector_events.BaseSelectorEventLoop._write_to_self = write_slowly
"""
IN_FLIGHT = """
import asyncio
from zarrvec.engine.bridge import run_sync
from zarrvec.faces.targets import repository_of
kept = []
async def ask_and_leave():
    engine = await repository_of(array)[0].engine()
    kept.extend(asyncio.ensure_future(engine.objects.get("zarrvec.json")) for _ in range(20))
    await asyncio.sleep(0)
run_sync(ask_and_leave())
"""


@pytest.mark.parametrize("delay", [0.005, 0.02, 0.08])
@pytest.mark.parametrize("last", ["array[1] = 2", IN_FLIGHT], ids=["write", "in flight"])
def test_the_interpreter_ends_in_peace(proxied_bucket, s3_proxy, delay, last):
    url, options = f"zarrvec::{proxied_bucket.url}/data.zarr", {"s3": proxied_bucket.storage_options}
    zarr.create_array(url, name="x", shape=(4,), chunks=(1,), dtype="i4", storage_options=options)
    s3_proxy.configure(ttfb="20")
    start = f"import zarr; array = zarr.open_array({url!r}, path='x', mode='r+', storage_options={options!r})"
    code = "\n".join([start, SLOW_THREADS.format(delay=delay), textwrap.dedent(last)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
