# What people and CI run. Needs make, any CPython >= 3.11 and the package registries.
#
#   make demo    set up .venv and run the demo on real input
#   make test    set up .venv and run all tests, those on a real S3 server included
#   make check   all that CI calls: lint, then all tests on both zarr lines
#   make lint    ruff, mypy and import-linter
#   make clean   remove the virtual environments and caches
#
# make test TESTS="tests/unit -k demo" runs a part of the tests; JOBS=8 uses more processes, JOBS=0 none.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-new check lint clean

TESTS ?= tests plugins
# One more than the processors of CI, for tests wait for servers: 521 s, where two take 581.
JOBS ?= 3

# Two lines of zarr are supported. Which one pip installs follows from the Python: 3.11 gets zarr 3.1.6, 3.12 and later
# the newest. .venv is on 3.11 where there is one, .venv-new on the newest Python. Each name is looked for on the PATH,
# among pyenv's versions and in /usr/bin; what doesn't run or can't make virtual environments (a pyenv shim of a version
# that isn't active, a system Python without its venv module) is passed over.
places = $(foreach version,$(1),python$(version) \
  $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$(version).*/bin/python$(version) /usr/bin/python$(version))
PYTHONS := $(call places,3.11 3.12 3.13) python3
NEW_PYTHONS := $(call places,3.13 3.12)
.venv/.python: candidates = $(PYTHONS)
.venv-new/.python: candidates = $(NEW_PYTHONS)

# $(call find-python,names) is the first usable one, or nothing.
find-python = $(shell for name in $(1); do \
  if "$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
  then echo "$$name"; break; fi; done)

# $(call versions,venv) prints the Python and the zarr of a virtual environment.
versions = $(1)/bin/python -c 'import platform, zarr; print("Python", platform.python_version() + ", zarr", zarr.__version__)'

# What is installed is compiled when it is imported: most never is. But then once, and not by each of the hundreds of
# processes that the tests start.
unexport PYTHONDONTWRITEBYTECODE
PIP = bin/python -m pip install -qq --no-compile --constraint constraints.txt
PYTEST = bin/python -m pytest --numprocesses $(JOBS) --dist worksteal

# Of `make check`, the second line leaves out what the first has run and what doesn't depend on zarr (pytest's mark `once`),
# and tries fewer examples of the rest.
ONCE = $(if $(filter check,$(MAKECMDGOALS)),-m 'not once' --hypothesis-profile again)

help:
	@sed -n '3,9s/^#  *//p' Makefile

demo: .venv/.installed
	@.venv/bin/zarrvec demo

test: .venv/.test-tools
	@echo "== tests: $$($(call versions,.venv))"
	@.venv/$(PYTEST) $(TESTS)
	@if .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 12))'; \
	then echo "== SKIPPED: the tests on zarr 3.1.6, since no CPython 3.11 was found"; fi

# Looked for only when asked for: each Python that is tried takes a moment.
ifneq ($(filter check test-new,$(MAKECMDGOALS)),)
ifeq ($(call find-python,$(NEW_PYTHONS)),)
test-new:
	@echo "== SKIPPED: the tests on the newest zarr, since no CPython 3.12 or 3.13 was found besides that of .venv"
else
test-new: .venv-new/.test-tools
	@echo "== tests: $$($(call versions,.venv-new))"
	@.venv-new/$(PYTEST) $(ONCE) $(TESTS)
endif
endif

lint: .venv/.lint-tools
	@echo "== ruff check"
	@.venv/bin/ruff check
	@echo "== ruff format"
	@.venv/bin/ruff format --check
	@echo "== mypy"
	@.venv/bin/mypy
	@echo "== import-linter"
	@.venv/bin/lint-imports

check: lint test test-new

clean:
	rm -rf .venv .venv-new .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments: a stamp file for each set of installed things, so that a second call installs nothing.

.venv/.python .venv-new/.python:
	@python="$(call find-python,$(candidates))"; \
	if [ -z "$$python" ]; then echo "zarrvec needs CPython 3.11 or newer, with its venv module: none found" >&2; exit 1; fi; \
	echo "== $(@D): $$("$$python" --version)"; \
	"$$python" -m venv --clear $(@D) && $(@D)/bin/python -m pip install -qq --upgrade 'pip>=25.1' && touch $@

%/.installed: %/.python pyproject.toml constraints.txt
	@echo "== $*: installing zarrvec"
	@$*/$(PIP) --editable '.[search]'
	@touch $@

%/.test-tools: %/.installed $(wildcard plugins/*/pyproject.toml)
	@echo "== $*: installing what the tests need, and the plugins"
	@$*/$(PIP) --editable '.[s3,search]' $(foreach plugin,$(wildcard plugins/*/pyproject.toml),--editable $(dir $(plugin))) --group test
	@touch $@

%/.lint-tools: %/.test-tools
	@echo "== $*: installing the linters"
	@$*/$(PIP) --group lint
	@touch $@

.PRECIOUS: %/.python %/.installed %/.test-tools %/.lint-tools
