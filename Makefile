# Everything sets itself up: a virtual environment in .venv from Python 3.11 or newer and the package index.

# The first of these that really is Python 3.11 or newer; `make PYTHON=/path/to/python test` chooses another.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3 python; do \
	if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo $$name; break; fi; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := $(BIN)/python -m pytest
QUICK := not faults and not interop and not kafka and not slow
# Unit tests start no servers, so two at a time do not disturb each other; tests with live services run one by one.
UNIT := -n 2 --dist loadfile tests/unit
LIVE := tests --ignore=tests/unit
# What `make test-interop` runs; continuous integration names the transfers alone.
INTEROP ?= tests
# What runs on Apache Kafka too: all that goes through a broker and a worker, with kills.
ON_KAFKA := tests/broker/worker tests/broker/producers tests/faults/worker tests/faults/gemd

.PHONY: help venv demo test lint types format test-all test-slow test-faults test-faults-kafka test-interop test-kafka bench docs clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/made:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found. Install one, or run: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/run-installed: pyproject.toml | $(VENV)/made
	$(PIP) install -e '.[server,embedded,crypto]'
	@touch $@

$(VENV)/dev-installed: pyproject.toml | $(VENV)/made
	$(PIP) install -e '.[server,embedded,crypto,dev]'
	@touch $@ $(VENV)/run-installed

venv: $(VENV)/dev-installed  ## Make the virtual environment in .venv, with everything.

demo: $(VENV)/run-installed  ## Run a small laboratory on this machine; results in demo.json.
	$(BIN)/openmsi-streams demo --json demo.json

test: $(VENV)/dev-installed  ## Run the tests, without the long ones.
	@# Both parts run whatever the first says; the last lines of each tell what failed.
	failed=0; $(PYTEST) -m "$(QUICK)" $(UNIT) || failed=1; $(PYTEST) -m "$(QUICK)" $(LIVE) || failed=1; exit $$failed

test-slow: $(VENV)/dev-installed  ## Run the tests that take more than half a minute each.
	$(PYTEST) -m slow tests

test-faults: $(VENV)/dev-installed  ## Run the long fault suite: kills, cuts, full disks, hostile messages. Rows: faults.jsonl.
	OPENMSI_TEST_FAULT_TABLE=$(CURDIR)/faults.jsonl $(PYTEST) -m faults tests

test-interop: $(VENV)/dev-installed  ## Run against the published OpenMSIStream, in a virtual environment of its own.
	$(PYTEST) -m interop $(INTEROP)

test-kafka: $(VENV)/dev-installed  ## Run the live tests against Apache Kafka, one broker and three; needs Java and Maven.
	failed=0; \
	OPENMSI_TEST_BROKER=kafka $(PYTEST) -m "$(QUICK)" $(ON_KAFKA) || failed=1; \
	OPENMSI_TEST_BROKER=kafka $(PYTEST) -m "broker and not kafka" -k "not full" tests/faults/system || failed=1; \
	OPENMSI_TEST_BROKER=kafka $(PYTEST) -m interop tests/interop/test_openmsistream.py || failed=1; \
	$(PYTEST) -m kafka tests || failed=1; exit $$failed

test-faults-kafka: $(VENV)/dev-installed  ## Run the long faults of broker, worker and producer on Apache Kafka. Rows: faults.jsonl.
	OPENMSI_TEST_BROKER=kafka OPENMSI_TEST_FAULT_TABLE=$(CURDIR)/faults.jsonl \
		$(PYTEST) -m faults tests/faults/system tests/faults/worker tests/faults/producers

test-all: test test-slow test-faults test-faults-kafka test-interop test-kafka  ## Run every test there is.

lint: $(VENV)/dev-installed  ## Check style and formatting.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev-installed  ## Mend what lint can mend.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev-installed  ## Check types.
	$(BIN)/mypy

bench: $(VENV)/dev-installed  ## Measure throughput and resources; results in bench/results.
	$(BIN)/python bench/run.py

docs: $(VENV)/dev-installed  ## Write the reference pages from the code and check that the documentation is true.
	$(BIN)/python -m openmsi_streams.config.reference
	$(PYTEST) tests/unit/docs

clean:  ## Remove what these commands made.
	rm -rf $(VENV) .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis demo.json faults.jsonl ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
