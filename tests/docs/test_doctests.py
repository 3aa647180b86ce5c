"""The examples in the docstrings of all of zarrvec's modules run and print what they say.

Modules are found on disk, so that a new one is covered without a list to keep. A module that can't be imported fails.
"""

import doctest
import importlib
import pkgutil

import pytest

import zarrvec

MODULES = [
    "zarrvec",
    *(
        found.name
        for found in pkgutil.walk_packages(zarrvec.__path__, "zarrvec.")
        if not found.name.endswith(".__main__")
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(
        module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS, report=True, verbose=False
    )
    assert result.failed == 0, (
        f"{result.failed} of {result.attempted} examples failed: see the captured output"
    )
