# QFLARE: `make help` says what there is. Everything runs in .venv, which is made when it is needed.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
BIND ?= 127.0.0.1:8000
STAMP := .venv/.installed-requirements
DEV_STAMP := .venv/.installed-requirements-dev

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-all lint bench bench-aggregate bench-attacks bench-audit bench-database bench-fleet scaling bench-compare bench-memory chaos docs vectors clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	@echo "Installing the pinned requirements into .venv: some minutes, once."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(DEV_STAMP): $(STAMP) requirements-dev.txt requirements-s3.txt requirements-otel.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check flwr==1.41.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps byzfl==0.0.11
	@touch $@

# The services profile wants a secret key; a demo's is made for the occasion.
demo: export QFLARE_ACKNOWLEDGE_FILE_KEK ?= 1
demo: export SECRET_KEY ?= $(shell $(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(50))')
demo: $(STAMP) ## One complete federated training with 10 devices, 2 of them malicious (ARGS="--keep")
	$(BIN)/python manage.py demo $(ARGS)

serve: export QFLARE_INSECURE_HTTP ?= 1
serve: export QFLARE_ACKNOWLEDGE_FILE_KEK ?= 1
serve: $(STAMP) ## Run all processes of one host until Ctrl-C (BIND=127.0.0.1:8000)
	$(BIN)/python manage.py serve --bind $(BIND)

lint: $(DEV_STAMP) ## ruff, import contracts, mypy, missing migrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/python manage.py makemigrations --check --dry-run --settings tests.settings

test: lint ## Lint, then the tests, those of locks and broker on both profiles (ARGS="-k handshake")
	$(BIN)/python -m tests.legs $(ARGS)

test-all: export QFLARE_REQUIRE_ALL_LEGS = 1
test-all: export QFLARE_ALL_TESTS = 1
test-all: test ## Every test on both profiles, slow ones and coverage too; fails without PostgreSQL or Redis

bench-aggregate: export OPENBLAS_NUM_THREADS = 1
bench-aggregate: $(STAMP) ## Every rule beside byzfl and Flower, then a round from sealed blobs; ten minutes, 10 GB
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-bench.txt
	$(BIN)/python -m bench.aggregate --output docs/benchmarks/aggregate.md
	$(BIN)/python -m bench.aggregate.sealed --output docs/benchmarks/sealed.md

bench-attacks: $(DEV_STAMP) ## Every rule under every attack on MNIST; twenty minutes (ARGS="--quick")
	$(BIN)/python -m bench.attacks $(ARGS)

bench-audit: $(STAMP) ## The log on PostgreSQL up to a million entries; ten minutes (ARGS="--entries 100000")
	$(BIN)/python -m bench.audit $(ARGS)

bench-database: $(STAMP) ## Key storage, session lookup, audit insert and clean-up on PostgreSQL beside bare statements
	$(BIN)/python -m bench.database --output docs/benchmarks/database.md $(ARGS)

bench-fleet: $(DEV_STAMP) ## 100, 1,000 and 5,000 virtual devices against the whole site; half an hour (ARGS="--sizes 100")
	$(BIN)/python -m bench.fleet --output docs/benchmarks/fleet.md --scaling docs/scaling.md $(ARGS)

scaling: $(DEV_STAMP) ## docs/scaling.md anew from the figures of the last bench-fleet, without running it
	$(BIN)/python -m bench.fleet.scaling $(ARGS)

bench-compare: $(DEV_STAMP) ## The same training in Flower, NVIDIA FLARE and QFLARE; a quarter of an hour
	$(BIN)/python -m bench.compare --write $(ARGS)

bench-memory: $(DEV_STAMP) ## What each process holds after 200 rounds; a quarter of an hour (ARGS="--rounds 20")
	$(BIN)/python -m bench.memory --output docs/benchmarks/memory.md $(ARGS)

images: $(DEV_STAMP) ## Pictures of the console for the documentation, from a real browser; two minutes
	QFLARE_KEEP_PICTURES=docs/images/console $(BIN)/python -m pytest -q tests/browser

chaos: $(DEV_STAMP) ## Every victim killed at every step of a round; twenty minutes (ARGS="--victim redis")
	$(BIN)/python -m tests.chaos --table $(ARGS)

bench: $(STAMP) ## Cryptography, sealing and handshake beside their references (ARGS="--json"); on an idle machine
	@$(BIN)/python -m bench.crypto $(ARGS)
	@$(BIN)/python -m bench.sealing $(ARGS)
	@$(BIN)/python -m bench.handshake $(ARGS)

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(DEV_STAMP) ## The documentation site into site/, with the reference made of the code
	$(BIN)/mkdocs build --strict --quiet $(ARGS)

vectors: $(DEV_STAMP) ## Make the test vectors in docs/vectors anew (ARGS="rekey" for one file)
	$(BIN)/python -m tests.vectors.make docs/vectors $(ARGS)

clean: ## Remove caches and build products; var/ and .venv stay
	rm -rf site .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage .coverage.* htmlcov *.egg-info build dist
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
