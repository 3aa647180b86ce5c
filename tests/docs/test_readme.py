"""Every ```` ```python ```` block of the README and of docs/ runs, in order, as a reader would run it.

The blocks of one file are one program. It runs in a process of its own that has imported nothing, in an empty
directory; line numbers in a traceback are those of the file. Where a page says ``s3://bucket/``, a real S3 server's bucket
stands in, its address and keys in the usual environment variables.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
S3_IN_PAGES = "s3://bucket/"
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)")


def program_of(page: str) -> str:
    """Return the python blocks of a page, each on its own lines, and an empty line for every other line."""
    lines: list[str] = []
    language: str | None = None
    indent = 0
    for line in page.splitlines():
        fence = FENCE.match(line)
        if fence and language is None:
            language, indent = fence["language"], len(fence["indent"])
            lines.append("")
        elif fence and not fence["language"]:
            language = None
            lines.append("")
        else:
            lines.append(line[indent:] if language == "python" else "")
    return "\n".join(lines).rstrip() + "\n"


def has_blocks(path: Path) -> bool:
    return path.exists() and program_of(path.read_text(encoding="utf-8")).strip() != ""


def test_blocks_keep_their_line_numbers_and_other_languages_are_left_out():
    page = "# t\n```python\na = 1\n```\n```console\n$ ls\n```\n- item\n  ```python\n  b = a\n  ```\n"
    assert program_of(page) == "\n\na = 1\n\n\n\n\n\n\nb = a\n"


def test_the_readme_has_an_example():
    assert has_blocks(ROOT / "README.md")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if has_blocks(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_blocks_of_a_page_run(page, tmp_path, request):
    program = program_of(page.read_text(encoding="utf-8"))
    environment = dict(os.environ)
    if S3_IN_PAGES in program:
        bucket = request.getfixturevalue("s3_bucket")
        program = program.replace(S3_IN_PAGES, bucket.url.rstrip("/") + "/")
        environment |= {
            "AWS_ENDPOINT_URL": bucket.endpoint_url,
            "AWS_ACCESS_KEY_ID": bucket.access_key,
            "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
            "AWS_REGION": bucket.region,
        }
    script = tmp_path / f"{page.name}.py"
    script.write_text(program, encoding="utf-8")
    working_directory = tmp_path / "empty"
    working_directory.mkdir()
    run = subprocess.run(
        [sys.executable, str(script)],
        cwd=working_directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, f"{page.relative_to(ROOT)}:\n{run.stdout}\n{run.stderr}"
