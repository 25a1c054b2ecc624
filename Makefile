# `make demo` and `make test` are all that a fresh machine needs; both set up .venv from the committed locks.
SHELL := /bin/bash
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
BIN := .venv/bin
# Ray starts many processes, and each would compile all it imports again where PYTHONDONTWRITEBYTECODE is set.
export UV_COMPILE_BYTECODE := 1

.PHONY: demo test test-fast test-slow soak check-open-clip lint format lock audit clean

demo: .venv/runtime
	$(BIN)/ecor demo

# Tests run side by side; of what starts Ray or another server, two files at a time, each file's tests in their order.
# Both kinds run whatever the first one gives; the end says what failed, and how to run it alone.
FAILED := .test-failures
test: .venv/dev
	@rm -rf $(FAILED) && mkdir $(FAILED); code=0; \
	$(MAKE) --no-print-directory test-fast REPORT=--junitxml=$(FAILED)/fast.xml || code=1; \
	$(MAKE) --no-print-directory test-slow REPORT=--junitxml=$(FAILED)/slow.xml || code=1; \
	$(BIN)/python tests/support/failures.py --pytest $(BIN)/pytest $(FAILED)/fast.xml $(FAILED)/slow.xml || code=1; \
	rm -rf $(FAILED); exit $$code

test-fast: .venv/dev
	$(BIN)/pytest -m "not slow" --numprocesses logical --maxprocesses 8 $(REPORT)

test-slow: .venv/dev
	$(BIN)/pytest -m slow --numprocesses 2 --dist loadfile $(REPORT)

# A hundred blows to shard and score on two machines of one, then damage to pictures and tars: about 90 minutes.
soak: .venv/dev
	$(BIN)/python tests/system/soak.py $(SOAK)

# open_clip's own training loader on our shards, with the webdataset that it can read.
check-open-clip: .venv/dev | $(UV)
	UV="$(UV)" $(BIN)/python tests/repository/check_open_clip_loader.py

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check ecor pipelines tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory audit NOT_AUDITED=0

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format ecor pipelines tests benchmarks

# Known vulnerabilities of what is locked. Where nobody answers for a package (no network, a mirror) nothing is known:
# alone that is a failure, in `make lint` a line.
AUDITED ?= -r requirements.lock -r requirements-dev.lock
NOT_AUDITED ?= 3
audit: | $(UV)
	@found=$$(mktemp) && said=$$(mktemp) || exit; \
	$(UV) tool run -q pip-audit==2.10.1 --strict --disable-pip --no-deps --progress-spinner off \
	    --output $$found $(AUDITED) 2> $$said; code=$$?; \
	if [ -s $$found ]; then cat $$found; \
	elif [ $$code -ne 0 ]; then tail -n 1 $$said; echo "dependencies not audited: see above"; code=$(NOT_AUDITED); fi; \
	rm -f $$found $$said; exit $$code

lock: $(UV)
	$(UV) pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header --extra remote pyproject.toml -o requirements.lock
	$(UV) pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

.venv/runtime: requirements.lock pyproject.toml | $(UV) .venv/bin/python
	$(UV) pip install -q --python $(BIN)/python -r requirements.lock
	$(UV) pip install -q --python $(BIN)/python --no-deps -e .
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

clean:
	rm -rf .venv .uv demo-run build *.egg-info
