# The commands of README and CI. Everything that they download or build is cached outside the checkout:
# packages in uv's cache, binaries in $(NASCALE_CACHE).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
NASCALE_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nascale
export NASCALE_CACHE
VENV := .venv
BIN := $(VENV)/bin
UV := $(NASCALE_CACHE)/bootstrap/bin/uv
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.9
# Of both parts of "make test". What needs no cluster runs side by side; what needs one does not: clusters that
# come and go side by side may take a port that another one's crashed process had.
PYTEST_ARGS ?=
# What comes with torch: left out of the lock for base images that have a torch of their own.
TORCH_PACKAGES = $(addprefix --no-emit-package ,mpmath networkx sympy \
  $(shell grep -oE '^(cuda|nvidia|torch|triton)[a-z0-9-]*' requirements/trainer.txt))
SBOM ?= build/sbom
SBOM_VENV := $(SBOM)/venv
SBOM_PARTS := operator trainer trainer-without-torch

.PHONY: help
help: ## show this text
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: env
env: $(STAMP) ## create .venv with everything that demo and tests need

$(UV):
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(NASCALE_CACHE)/bootstrap
	$(NASCALE_CACHE)/bootstrap/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): pyproject.toml requirements/dev.txt | $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: binaries
binaries: env ## build or find the control plane's binaries and Prometheus (cached)
	$(BIN)/nascale local binaries

.PHONY: demo
demo: env ## search an architecture on the embedded cluster, scale it into a family, train a member
	$(BIN)/nascale demo $(DEMO_ARGS)

.PHONY: verify
verify: env ## lint, types, import contracts, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict .
	$(BIN)/python -m nascale.api.generate --check

.PHONY: generate
generate: env ## write crds/, the chart's copy of them, and docs/contract/ from the models
	$(BIN)/python -m nascale.api.generate

.PHONY: test
test: verify ## run every test
	$(BIN)/nascale local binaries --with helm --with kubeconform --with kueue
	$(BIN)/pytest -m "not cluster" -n auto --dist loadfile $(PYTEST_ARGS)
	$(BIN)/pytest -m cluster $(PYTEST_ARGS)

.PHONY: e2e
e2e: env ## build both images, install the chart on a real kubelet, run all kinds (root, containerd)
	NASCALE_E2E=1 $(BIN)/pytest tests/e2e $(PYTEST_ARGS)

.PHONY: bench
bench: binaries ## measure every figure of docs/benchmarks.md that this machine can
	$(BIN)/python benchmarks/run_all.py

.PHONY: bench-gpu
bench-gpu: env ## measure generated schedules on this machine's GPU
	$(BIN)/python benchmarks/schedule_speedup.py --device cuda
	$(BIN)/python benchmarks/schedule_second_task.py --device cuda
	$(BIN)/python benchmarks/schedule_prediction.py --device cuda

.PHONY: lock
lock: $(UV) ## resolve requirements/*.txt anew
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --extra dev --output-file requirements/dev.txt pyproject.toml requirements/build.in
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --extra operator --output-file requirements/operator.txt pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --extra trainer --output-file requirements/trainer.txt pyproject.toml
	cp requirements/trainer.txt requirements/trainer-without-torch.txt
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --extra trainer $(TORCH_PACKAGES) --output-file requirements/trainer-without-torch.txt pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --output-file requirements/sbom.txt requirements/sbom.in

.PHONY: sbom
# PYTHON: of the same version as the base image's.
sbom: $(UV) ## list what the images hold, as CycloneDX documents in build/sbom/
	$(UV) venv --quiet --clear --python $(PYTHON) $(SBOM_VENV)
	$(UV) pip sync --quiet --require-hashes --python $(SBOM_VENV)/bin/python requirements/sbom.txt
	mkdir -p $(SBOM)
	for part in $(SBOM_PARTS); do \
	  $(SBOM_VENV)/bin/python requirements/applicable.py requirements/$$part.txt > $(SBOM_VENV)/$$part.txt; \
	  $(SBOM_VENV)/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --output-reproducible \
	    --spec-version 1.6 --output-format JSON --output-file $(SBOM)/$$part.cdx.json $(SBOM_VENV)/$$part.txt; \
	done

.PHONY: clean
clean: ## remove what was made in the checkout (not the cache)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
