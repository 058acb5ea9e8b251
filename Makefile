# Hookline. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Two processes, each with an embedded stack of its own; on servers given by URL one, because journeys share consumer groups.
IN_PARALLEL := $(if $(KAFKA_URL)$(DATABASE_URL)$(REDIS_URL),,--numprocesses 2 --dist loadfile)
PACKAGES := console infra ingress llm_gateway processors schemas sinks

##@ Start here
.PHONY: demo test
demo: setup ## Run the whole journey on this machine: SECONDS=45, KEEP=1 leaves it up
	@$(BIN)/hookline demo --seconds $(or $(SECONDS),45) $(if $(KEEP),--keep)

test: setup ## Run every test on the embedded stack (or on KAFKA_URL, DATABASE_URL, REDIS_URL)
	@$(BIN)/pytest $(IN_PARALLEL)

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
.PHONY: check format lint types contracts pubsub-stubs test-unit test-connected
check: lint types contracts ## All that CI checks before the tests

lint: setup ## Formatting and lint rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: setup ## Strict types
	@$(BIN)/mypy

contracts: setup ## Who may import whom
	@$(BIN)/lint-imports --no-cache

pubsub-stubs: setup ## The stubs of Salesforce's Pub/Sub API, from its vendor's .proto
	@$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. infra/pubsub_api/pubsub_api.proto

format: setup ## Format, and mend what can be mended
	@$(BIN)/ruff check --fix-only --quiet . || true
	@$(BIN)/ruff format .

test-unit: setup ## The tests that need no server (seconds)
	@$(BIN)/pytest -m "not connected" --numprocesses 2

test-connected: setup ## The tests on real servers, journeys included
	@$(BIN)/pytest -m connected $(IN_PARALLEL)

##@ Run it
.PHONY: up stack
up: setup ## All roles in one process on the embedded stack, until Ctrl-C
	@$(BIN)/hookline up

stack: setup ## Only the embedded Kafka, PostgreSQL and Valkey, until Ctrl-C
	@$(BIN)/python -m infra.local.stack run

.PHONY: sandbox-groq
sandbox-groq: setup ## A stand-in for Groq's API on port 8900: ARGS="--latency 0.2 --requests-per-minute 100 --tokens-per-minute 20000"
	@$(BIN)/python -m infra.local.groq_stand_in $(ARGS)

##@ Try to break it
.PHONY: faults
faults: setup ## Guarantees under faults (docs/guarantees.md): SEEDS=1,2,3 SEED=7 ONLY=name RATE=200 SHORT=1 ROUNDS=file
	@$(BIN)/python -m tests.faults --seeds $(or $(SEED),$(SEEDS),1,2,3) --rate $(or $(RATE),200) $(if $(SHORT),--short) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY),--without all --write docs/guarantees.md)

.PHONY: privacy-kills
privacy-kills: setup ## An erasure killed before and after each of its effects (docs/privacy.md)
	@PRIVACY_KILLS=all $(BIN)/pytest -q tests/connected/test_privacy.py

##@ Measure it
.PHONY: bench-journey bench-quality
bench-journey: setup ## Latency of the journey against five bare Kafka hops
	@$(BIN)/python -m bench.journey

.PHONY: bench-replay
bench-replay: setup ## What a replay costs live traffic, and its plan against its run: MODEL=groq asks the stand-in
	@$(BIN)/python -m bench.replay $(if $(MODEL),--model $(MODEL))

.PHONY: bench-ingress fuzz
bench-ingress: setup ## CPU per request at the front door against its floor (needs wrk)
	@$(BIN)/python -m bench.ingress

fuzz: setup ## A million mutated bodies through the dialects: INPUTS=1000000 SEED=7
	@$(BIN)/python -m tests.fuzz

.PHONY: fuzz-api
fuzz-api: setup ## Calls drawn from the OpenAPI document against the HTTP API, at length: EXAMPLES=200
	@FUZZ_API_EXAMPLES=$(or $(EXAMPLES),200) $(BIN)/pytest -q tests/connected/test_api.py -k any_call

bench-quality: setup ## Precision and recall of duplicates and data defects
	@$(BIN)/python -m bench.quality

.PHONY: bench-backlog bench-flood
bench-backlog: setup ## A backlog drains, stage by stage, beside bare loops: CHANGES=1000000 RECORDS=200000
	@$(BIN)/python -m bench.backlog --changes $(or $(CHANGES),1000000) --records $(or $(RECORDS),200000) --chart docs/backlog-memory.svg --result docs/backlog.json

bench-flood: setup ## What one tenant's flood, revoked token and spent quota cost another: CHANGES=100000
	@$(BIN)/python -m bench.flood --changes $(or $(CHANGES),100000) --records $(or $(RECORDS),5000)

.PHONY: bench-gateway
bench-gateway: setup ## CPU per chat request at the gateway's server, beside a floor, LiteLLM and TensorZero (ARGS="--soak 200000")
	@$(BIN)/python -m bench.gateway $(ARGS)

.PHONY: bench-trace
bench-trace: TRACE_FILE = $(filter-out drawn,$(or $(TRACE),$(wildcard ../shared/traces/crm_day.jsonl.gz)))
bench-trace: setup ## What a day of CRM edits costs, saving by saving: TRACE=file (else ../shared/traces/crm_day.jsonl.gz if it is there; drawn: a day by SEED=11) TIME_SCALE=20 DURATION=120 ARGS="--window 45"
	@$(BIN)/python -m bench.trace $(if $(TRACE_FILE),--trace $(TRACE_FILE)) --seed $(or $(SEED),11) --scale $(or $(TIME_SCALE),20) --duration $(or $(DURATION),120) $(ARGS)

.PHONY: bench-limits
bench-limits: setup ## Four replicas at five times a provider's limits: use, 429s, fairness, interactive p95 (WINDOW=60)
	@$(BIN)/python -m bench.limits

.PHONY: bench-crm-limits loop conformance
bench-crm-limits: setup ## 5,000 changed records through a portal's limits, time scaled by ten: RECORDS=500 LIMIT=110 WINDOW=100
	@$(BIN)/python -m bench.crm_limits

loop: setup ## A thousand write-backs, no analysis of our own echoes, no edit missed: WRITES=100
	@$(BIN)/python -m bench.loop

conformance: setup ## HubSpot's traffic of a journey against HubSpot's API descriptions
	@$(BIN)/python -m bench.conformance

.PHONY: apps test-apps
APPS := infra/crm_apps/hubspot infra/crm_apps/salesforce infra/crm_apps/salesforce/page
apps: ## What the two CRM apps' own tools and browser tests need, from npm (needs Node 20)
	@for app in $(APPS); do echo "$$app" && (cd $$app && npm ci --no-audit --no-fund --loglevel=error) || exit 1; done

test-apps: setup ## The two CRM apps by their vendors' tools, and both in a real browser: PICTURES=docs keeps the pictures
	@cd infra/crm_apps/hubspot && npm test
	@cd infra/crm_apps/salesforce && npm test && npm run check
	@HOOKLINE_TEST_PICTURES=$(abspath $(PICTURES)) $(BIN)/pytest -q tests/console/cards tests/infra/crm/test_hubspot_project.py tests/infra/crm/test_salesforce_project.py

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*##/ {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
