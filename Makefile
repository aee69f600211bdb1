# Needs Python 3.11 or later and make; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# The lock file pins Python 3.11's versions; other Pythons take what pyproject.toml allows.
LOCK := $(shell $(PYTHON) -c 'import sys; print("-c requirements.lock" if sys.version_info[:2] == (3, 11) else "")')

.PHONY: demo test test-slow lint bench clean
.DELETE_ON_ERROR:

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(LOCK) -e '.[test]'
	touch $@

demo: $(READY)
	$(BIN)/python -m dist_fm.demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n 2 -m 'not slow'

test-slow: $(READY)
	$(BIN)/pytest -m slow

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .jax_cache
