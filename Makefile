# respkv: run it, test it. Needs python3 (3.11 or newer) and nothing else; everything is installed into .venv.
#
#   make run     a cluster of three nodes in ./data; then: redis-cli -p 7001
#   make test    lint, types, import directions and all tests
#   make lint    the first three alone
#   make sim     simulated clusters with faults, for SECONDS=60, from SEED=... (see docs/simulation.md)
#   make bench   the benchmarks
#   make crash   faults on real nodes: make crash SEED=1 SECONDS=300
#   make fuzz    bad input of every kind: make fuzz SECONDS=600, or with coverage (pip install '.[fuzz]'): ENGINE=atheris
#   make clean   removes what was built and cached (not ./data)

PYTHON ?= $(shell .ci/python)
BIN := .venv/bin
SOURCES := respkv tests

SEED ?= 0
SECONDS ?= 60
ENGINE ?= seeds

.PHONY: run test lint sim bench crash fuzz clean
.DEFAULT_GOAL := run

run: .venv/.stamp
	$(BIN)/respkv cluster ./data

test: lint
	@.ci/redis
	@.ci/node
	@.ci/go
	$(BIN)/pytest -q -n 2 tests/unit tests/property tests/fuzz tests/sim
	$(BIN)/pytest -q tests/compat tests/crash

lint: .venv/.stamp-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

sim: .venv/.stamp-dev
	SECONDS=$(SECONDS) SEED=$(SEED) $(BIN)/python -m tests.sim

bench: .venv/.stamp-dev
	@.ci/redis
	$(BIN)/python -m tests.bench

crash: .venv/.stamp-dev
	$(BIN)/python -m tests.crash --seed $(SEED) --seconds $(SECONDS)

fuzz: .venv/.stamp-dev
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED) --engine $(ENGINE)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache tests/compat/node/node_modules tests/compat/go/go-redis
	find respkv tests -name __pycache__ -type d -exec rm -rf {} +

.venv/.stamp: pyproject.toml
	.ci/venv $(PYTHON) .
	@touch $@

.venv/.stamp-dev: pyproject.toml
	.ci/venv $(PYTHON) '.[dev]'
	@touch $@ .venv/.stamp
