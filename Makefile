# `make demo` and `make test` need nothing but Python >= 3.11: they make .venv and install what they use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test trials check format docs gpu gpu-wheels clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    the whole journey on this machine, about 5 minutes"
	@echo "make test    the tests (RUN='-m slow' for those that take longest)"
	@echo "make check   format, lint, types, import contract, tests"
	@echo "make format  rewrite the code in the project's format"
	@echo "make trials  everything that can be broken, broken once, with figures"
	@echo "make gpu     the check on a GPU (docs/gpu.md); make gpu-wheels fetches what a bare CUDA machine lacks"
	@echo "make docs    the documentation as a site, docs/_build/index.html"

$(BIN)/jemb: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"jemb needs Python 3.11 or newer, this is {sys.version.split()[0]}")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(BIN)/jemb
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(BIN)/jemb
	$(BIN)/jemb demo output=demo

test: $(VENV)/.dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 $(RUN)

trials: $(VENV)/.dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.trials

gpu: $(VENV)/.dev
	$(BIN)/python -m benchmarks.gpu.check

gpu-wheels:
	PYTHON=$(PYTHON) benchmarks/gpu/wheels.sh

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory test

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build
	@echo docs/_build/index.html

clean:
	rm -rf build docs/_build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
