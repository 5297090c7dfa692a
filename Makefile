# Everything runs in one .venv: `make demo` puts in it what running needs, `make setup` what testing needs as well.
# PYTHON may name another interpreter, >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
RUN_LOCK := .locks/run.txt
LOCK := .locks/dev.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
BENCH_LOCK := .locks/bench.txt
BROWSER_LOCK := .locks/browser.txt
BUILD_LOCK := .locks/build.txt
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
UPGRADE ?= --upgrade
PYTEST := $(BIN)/python -m pytest -q --ignore tests/browser
ON_ALL_CORES := -n auto --dist loadfile --no-loadscope-reorder
HISTORIES ?= 2000

.PHONY: help setup demo wheel test rounds test-faults test-browser deploy-tools bench docs check format lint types audit lock clean

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.dev  ## Make .venv with the program and its tools

.venv/.run: $(RUN_LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Roomlapse needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(PIP) --require-hashes -r $(RUN_LOCK)
	@touch $@

.venv/.dev: .venv/.run $(LOCK) pyproject.toml
	$(PIP) --require-hashes -r $(LOCK)
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

demo: .venv/.run  ## A sample evening, a server and a simulated sender; FOR=20 ends it after 20 s, PORT=8100 takes another port
	PYTHONPATH="$(CURDIR)" $(BIN)/python -m app demo $(if $(FOR),--for $(FOR)) $(if $(PORT),--port $(PORT))

wheel: setup  ## Build dist/roomlapse-VERSION-py3-none-any.whl, which runs where .locks/run.txt is installed
	$(BIN)/python -m hatchling build --target wheel

test: setup  ## The loop of an hour's work, three minutes on two cores: all tests but the slow ones and those in a browser
	$(PYTEST) $(ON_ALL_CORES) -m "not slow and not serial"
	$(PYTEST) -m "serial and not slow"

rounds: setup  ## What is slow: long properties (HISTORIES=20000), seeded bugs, documented commands, the faults in short
	HISTORIES=$(HISTORIES) $(PYTEST) $(ON_ALL_CORES) -m "(slow or hypothesis) and not serial"
	$(PYTEST) -m "slow and serial"

test-faults: setup  ## The fault matrix in full (about half an hour, as root), and its table; ROWS="-k power" for some
	rm -f tests/faults/results.jsonl
	FAULTS=full $(PYTEST) -rs tests/faults $(ROWS); status=$$?; \
		$(BIN)/python tests/faults/table.py $(if $(ROWS),,$$([ $$status = 0 ] && echo --write)); exit $$status

test-browser: setup  ## The page in a real Chromium, which is installed if it can be; pictures in tests/screenshots
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || test -n "$$CHROMIUM" || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || \
		{ echo "install chromium first, or name it: make test-browser CHROMIUM=/path" >&2; exit 1; }
	$(PIP) --require-hashes -r $(BROWSER_LOCK)
	$(BIN)/python -m pytest -q -rP tests/browser

deploy-tools:  ## Install what tests/deploy checks deploy/ with: nginx, Caddy, Prometheus, systemd, strace, openssl (as root)
	@set -e; missing=; for tool in nginx:nginx caddy:caddy promtool:prometheus systemd-analyze:systemd strace:strace openssl:openssl; do \
		PATH="$$PATH:/usr/sbin" command -v $${tool%%:*} >/dev/null || missing="$$missing $${tool##*:}"; done; \
	test -z "$$missing" || { apt-get update -qq || true; for package in $$missing; do \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$package >/dev/null || \
			echo "$$package cannot be installed: what it checks is skipped" >&2; done; }

bench: setup  ## Every goal of speed and size beside its peers; ROWS=cpu,storage for some, SCALE=0.1 for a trial
	$(PIP) --require-hashes -r $(BENCH_LOCK)
	$(BIN)/python tests/benchmarks/run.py $(if $(ROWS),--rows $(ROWS)) $(if $(SCALE),--scale $(SCALE))

docs: setup  ## Write the parts of the documentation that the program writes, and what documented commands print
	WRITE_DOCS=1 $(PYTEST) tests/docs

check: setup format lint types audit test  ## The one gate: format, lint, types, known vulnerabilities, tests

format: setup
	$(BIN)/ruff format --quiet --check --diff .

lint: setup
	$(BIN)/ruff check --quiet .

types: setup
	$(BIN)/mypy

audit: setup  ## Look the locked dependencies up among known vulnerabilities; AUDIT=--strict fails if that cannot be done
	$(BIN)/python tests/audit.py $(AUDIT) $(LOCK)

lock:  ## Pin the newest versions that pyproject.toml allows, UPGRADE= keeps those that still fit; needs uv
	$(COMPILE) $(UPGRADE) --extra dev pyproject.toml --output-file $(LOCK)
	$(COMPILE) --constraint $(LOCK) $(UPGRADE) pyproject.toml --output-file $(RUN_LOCK)
	echo hatchling | $(COMPILE) --constraint $(LOCK) $(UPGRADE) - --output-file $(BUILD_LOCK)
	$(COMPILE) $(UPGRADE) --extra dev --extra bench pyproject.toml --output-file $(BENCH_LOCK)
	$(COMPILE) $(UPGRADE) --extra dev --extra browser pyproject.toml --output-file $(BROWSER_LOCK)

clean:  ## Remove .venv and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
