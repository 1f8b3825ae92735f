# Everything runs from .venv, which the first target that needs it makes (python3 and make suffice).
PYTHON := .venv/bin/python

.PHONY: help install demo test lint types contracts stubs stubs-check constraints sdk-matrix-old bench torture quota-storm money-check check

help:
	@echo "make demo       meterd, a loopback provider and an example app, driven with real SDKs"
	@echo "make test       every test"
	@echo "make check      lint, types, import contracts, generated stubs"
	@echo "make bench      the figures of docs/benchmarks.md; QUICK=1: in minutes"
	@echo "make torture    kill -9 of app, workers and meterd under load, and thousands of simulations"
	@echo "make quota-storm  real SDK calls on one hard quota, and kill -9 of workers and meterd"
	@echo "make sdk-matrix-old  one older major of each SDK, in a venv of its own (needs the network)"
	@echo "make money-check  a thousand clients, a year: each cent against the ledger, by another route"
	@echo "make stubs      generate the protobuf stubs"
	@echo "make constraints  resolve the pins of constraints.txt anew (needs the network)"

install:
	@python3 .ci/install.py

demo: install
	@$(PYTHON) -m examples.demo

test: install
	@$(PYTHON) -m pytest -n 2 --dist loadgroup

check: lint types contracts stubs-check

lint: install
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .

types: install
	@$(PYTHON) -m mypy --cache-dir .mypy_cache proto/meterd_proto proto/meterd_client middleware/meterd_middleware meterd/meterd tests examples benchmarks

contracts: install
	@.venv/bin/lint-imports --no-cache

stubs: install
	@$(PYTHON) .ci/stubs.py

stubs-check: install
	@$(PYTHON) .ci/stubs.py --check

constraints: install
	@$(PYTHON) -m pip install --quiet uv
	@$(PYTHON) -m uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	    --no-emit-index-url --no-header --no-annotate requirements-dev.in -o constraints.txt
	@$(PYTHON) -m uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	    --no-emit-index-url --no-header --no-annotate requirements-older-sdks.in -o constraints-older-sdks.txt

# docs/wire.md has what came out last.
OLDER := .venv-older-sdks/bin/python
sdk-matrix-old:
	@test -x $(OLDER) || python3 -m venv .venv-older-sdks
	@$(OLDER) -m pip --quiet --disable-pip-version-check install --require-hashes --no-deps -r constraints-older-sdks.txt
	@PYTHONPATH=proto:middleware:. $(OLDER) -m pytest -q tests/wire/test_sdk_matrix.py tests/wire/test_sdk_attempts.py

bench: install
	@$(PYTHON) -m benchmarks $(if $(QUICK),--quick)

# docs/reliability.md has what came out last. make torture ROUNDS=20 SEED=7 SCHEDULES=100
torture: install
	@$(PYTHON) -W ignore -m tests.delivery.torture --rounds $(or $(ROUNDS),200) $(if $(SEED),--seed $(SEED))
	@METERD_SIMULATION_SEEDS=$(or $(SCHEDULES),500) METERD_FORKS=300 $(PYTHON) -m pytest -q -n 2 \
	    --timeout 1200 tests/delivery/simulation tests/delivery/test_fork.py

# docs/quotas.md has what came out last. make quota-storm ROUNDS=8 SEED=7
quota-storm: install
	@$(PYTHON) -W ignore -m tests.quota.storm --rounds $(or $(ROUNDS),4) $(if $(SEED),--seed $(SEED))

# docs/billing.md has what came out last. make money-check CLIENTS=1000 MONTHS=12 SEED=7
money-check: install
	@$(PYTHON) -m tests.billing.money_check $(if $(CLIENTS),--clients $(CLIENTS)) $(if $(MONTHS),--months $(MONTHS)) $(if $(SEED),--seed $(SEED))
