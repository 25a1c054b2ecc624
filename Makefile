# `make demo` and `make test` are all that a fresh machine needs; both set up .venv from the committed locks.
SHELL := /bin/bash
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
BIN := .venv/bin
# Ray starts many processes at once, and each would compile what it imports. So what they import is compiled here; most
# other modules are never imported, and the rest are compiled by the first import, unless PYTHONDONTWRITEBYTECODE is set.
# So are the tests, with their assertions rewritten. A file that does not compile is a template, which nobody imports.
COMPILED := ray torch mlflow pandas scipy numpy
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-fast test-slow test-portable soak check-open-clip docs wheel check-wheel lint format lock audit clean

help:  ## list these commands
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | sort | awk -F '\t' '{printf "%-16s %s\n", $$1, $$2}'

demo: .venv/runtime  ## the whole job on drawn scenes; prints a table and the path of a page
	$(BIN)/ecor demo

# Tests run in parallel. Of tests that start Ray or another server, three files run at a time, since they often wait, each
# in its own order, the longest files first (tests/support/order.py).
# The second part also runs after failures in the first. At the end: the failed tests, and how to run one alone.
test: .venv/dev  ## all tests, as CI runs them
	@log=$$(mktemp); code=0; \
	for part in test-fast test-slow; do \
	    $(MAKE) --no-print-directory $$part 2>&1 | tee -a $$log; [ $${PIPESTATUS[0]} -eq 0 ] || code=1; \
	done; \
	if [ $$code -ne 0 ]; then \
	    echo; echo "failed (run one alone: $(BIN)/pytest 'NODE'):"; \
	    sed -nE '/^(FAILED|ERROR) tests\// { s/^[A-Z]+ /  /; s/ - .*//; p; }' $$log; \
	fi; rm -f $$log; exit $$code

test-slow: .venv/dev  ## tests that start Ray, servers, browsers: 12 to 25 minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow --numprocesses 3 --dist loadfile --no-loadscope-reorder

# One thread each: the processes together use all processors.
test-fast: .venv/dev  ## tests without Ray and servers, to run while you work: 3 to 8 minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# One setting after another: processors, threads, Pythons (from uv), missing programs, locale, home, odd folder.
test-portable: .venv/dev | $(UV)  ## tests as on other machines, up to an hour; PORTABLE="--only threads" for some
	UV="$(UV)" $(BIN)/python tests/repository/portable.py $(PORTABLE)

# A hundred faults (kills, full disks) in shard and score on a cluster of two nodes, then damage to pictures and tars: 35 to 90 minutes.
soak: .venv/dev  ## faults and damage, 35 to 90 minutes; SOAK="--kills 10 --minutes 5" for a short one
	$(BIN)/python tests/system/soak.py $(SOAK)

# open_clip's own training loader on our shards, with the webdataset that it can read.
check-open-clip: .venv/dev | $(UV)  ## open_clip's own training loader reads our shards; needs a package index
	UV="$(UV)" $(BIN)/python tests/repository/check_open_clip_loader.py

# The build and the pages fetch nothing from the network (tests/repository/test_docs.py).
docs: .venv/dev  ## the documentation site, in build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

wheel: | $(UV)  ## a wheel, in dist/
	$(UV) build -q --wheel

check-wheel: | $(UV)  ## the wheel, alone in an empty environment, runs the demo
	UV="$(UV)" .ci/check_wheel

lint: .venv/dev  ## ruff, mypy, import contracts, known vulnerabilities of locked packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check ecor pipelines tests benchmarks docs/repository_pages.py docs/tutorial.ipynb
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory audit NOT_AUDITED=0

format: .venv/dev  ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format ecor pipelines tests benchmarks docs/repository_pages.py docs/tutorial.ipynb

# Known vulnerabilities of locked packages. Without an answer for a package (no network, a mirror) nothing is known:
# alone that is a failure, in `make lint` a line.
AUDITED ?= -r requirements.lock -r requirements-dev.lock
NOT_AUDITED ?= 3
audit: | $(UV)  ## known vulnerabilities of locked packages
	@found=$$(mktemp) && said=$$(mktemp) || exit; \
	$(UV) tool run -q pip-audit==2.10.1 --strict --disable-pip --no-deps --progress-spinner off \
	    --output $$found $(AUDITED) 2> $$said; code=$$?; \
	if [ -s $$found ]; then cat $$found; \
	elif [ $$code -ne 0 ]; then tail -n 1 $$said; echo "dependencies not audited: see above"; code=$(NOT_AUDITED); fi; \
	rm -f $$found $$said; exit $$code

lock: $(UV)  ## write both lock files from pyproject.toml
	$(UV) pip compile -q --universal --python-version 3.11 --no-annotate --no-header --extra remote pyproject.toml -o requirements.lock
	$(UV) pip compile -q --universal --python-version 3.11 --no-annotate --no-header --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

.venv/runtime: requirements.lock pyproject.toml | $(UV) .venv/bin/python
	$(UV) pip install -q --python $(BIN)/python -r requirements.lock
	$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests/' $(addprefix .venv/lib/python3*/site-packages/,$(COMPILED)) || true
	@touch $@

.venv/dev: requirements-dev.lock .venv/runtime
	$(UV) pip install -q --python $(BIN)/python -r requirements-dev.lock
	@touch $@

.venv/bin/python: | $(UV)
	$(UV) venv -q --python "$(PYTHON)" .venv

# Only where uv is not installed already.
.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install -q uv

clean:  ## remove environments and build outputs
	rm -rf .venv .uv demo-run build dist *.egg-info
