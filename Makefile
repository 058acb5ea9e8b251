# Hookline. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PACKAGES := console infra ingress llm_gateway processors schemas sinks

##@ Start here
.PHONY: demo test
demo: setup ## Run the whole journey on this machine: SECONDS=45, KEEP=1 leaves it up
	@$(BIN)/hookline demo --seconds $(or $(SECONDS),45) $(if $(KEEP),--keep)

test: setup ## Run every test on the embedded stack (or on KAFKA_URL, DATABASE_URL, REDIS_URL)
	@$(BIN)/pytest

##@ Set-up
.PHONY: setup lock clean
setup: $(READY) ## Make .venv and fetch what the embedded stack needs (once; offline afterwards)

$(READY): pyproject.toml requirements.lock requirements-pip.lock infra/local/kafka-jars.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 setup"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "python3 -m venv failed: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; }
	@echo "[1/3] Python packages (about 250 MB, checksums in requirements.lock; a cut download resumes when you run this again)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-pip.lock
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar $(if $(CI),off,on) --resume-retries 5 --require-hashes -r requirements.lock | { grep -v '^Requirement already\|^Collecting' || true; }
	@echo "[2/3] Hookline itself"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@echo "[3/3] Apache Kafka's jars (checksums in infra/local/kafka-jars.lock)"
	@$(BIN)/python -m infra.local.stack prepare
	@touch $@

lock: setup ## Resolve the newest allowed versions into requirements.lock
	@$(BIN)/pip-compile --quiet --strip-extras --all-extras --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-header --no-annotate --allow-unsafe --upgrade -o requirements.lock pyproject.toml

clean: ## Remove .venv and all embedded data of this checkout
	@rm -rf .venv .hookline

##@ Work on it
.PHONY: check format lint types contracts test-unit test-connected
check: lint types contracts ## All that CI checks before the tests

lint: setup ## Formatting and lint rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: setup ## Strict types
	@$(BIN)/mypy

contracts: setup ## Who may import whom
	@$(BIN)/lint-imports --no-cache

format: setup ## Format, and mend what can be mended
	@$(BIN)/ruff check --fix-only --quiet . || true
	@$(BIN)/ruff format .

test-unit: setup ## The tests that need no server (seconds)
	@$(BIN)/pytest -m "not connected"

test-connected: setup ## The tests on real servers, journeys included
	@$(BIN)/pytest -m connected

##@ Run it
.PHONY: up stack
up: setup ## All roles in one process on the embedded stack, until Ctrl-C
	@$(BIN)/hookline up

stack: setup ## Only the embedded Kafka, PostgreSQL and Valkey, until Ctrl-C
	@$(BIN)/python -m infra.local.stack run

##@ Measure it
.PHONY: bench-journey bench-quality
bench-journey: setup ## Latency of the journey against five bare Kafka hops
	@$(BIN)/python -m bench.journey

bench-quality: setup ## Precision and recall of duplicates and data defects
	@$(BIN)/python -m bench.quality

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*##/ {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
