"""The defaults in ``specs/planner.md`` are the code's."""

from pathlib import Path

import pytest

from zarrvec.planner.targets import TARGETS, Machine

SPEC = (Path(__file__).parents[3] / "specs" / "planner.md").read_text(encoding="utf-8")
ROWS = {
    cells[0]: cells[1:]
    for line in SPEC.splitlines()
    if line.startswith("| ") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) > 1
}


@pytest.mark.parametrize(
    ("row", "field", "unit"),
    [
        ("L to read, ms", "get_seconds", 1e-3),
        ("L to write, ms", "put_seconds", 1e-3),
        ("r, MB/s", "connection_bytes_per_second", 1e6),
        ("C", "concurrency", 1),
        ("u, ms", "request_cpu_seconds", 1e-3),
        ("$ per 1,000 GET", "get_dollars", 1e-3),
        ("$ per 1,000 PUT", "put_dollars", 1e-3),
        ("$ a GB-month", "gigabyte_month_dollars", 1),
    ],
)
def test_targets(row, field, unit):
    names = ["s3", "s3-express", "gcs", "local"]
    assert ROWS[""][:4] == names
    for name, cell in zip(names, ROWS[row], strict=False):
        assert float(cell) * unit == pytest.approx(getattr(TARGETS[name], field))


@pytest.mark.parametrize(
    ("row", "fields", "unit"),
    [
        ("call, w", ("call_seconds", "commit_seconds"), "ms"),
        ("c_r, c_w", ("chunk_read_seconds", "chunk_write_seconds"), "us"),
        ("l_s, c_s", ("line_pick_seconds", "chunk_pick_seconds"), "us"),
        ("s_r, s_w", ("stored_read_seconds", "stored_write_seconds"), "ns"),
        ("v", ("place_seconds",), "ns"),
        ("n", ("run_seconds",), "ns"),
        ("p", ("pick_seconds",), "ns"),
        ("m", ("merge_seconds",), "ns"),
    ],
)
def test_machine(row, fields, unit):
    scale = {"ms": 1e3, "us": 1e6, "ns": 1e9}[unit]
    assert ROWS[row][0] == f"{', '.join(f'{scale * getattr(Machine(), name):g}' for name in fields)} {unit}"
