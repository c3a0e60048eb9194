# "make" prints this list. Everything is installed into .venv from the pinned locks in deploy/.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help install dev clients run test check fix pages protos buf soak soak-batch bench bench-batch bench-capacity bench-lanes lock clean

VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough; "make PYTHON=/path/to/python install" overrides.
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
  $(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
# Stamps carry a checksum of what was installed, so a changed lock reinstalls and nothing else does.
RUNTIME := $(VENV)/.runtime-$(firstword $(shell cat pyproject.toml deploy/requirements.lock | cksum))
DEV := $(VENV)/.dev-$(firstword $(shell cat pyproject.toml deploy/requirements-dev.lock | cksum))
CLIENTS := $(VENV)/.clients-$(firstword $(shell cksum deploy/requirements-clients.lock))
# The clients for Node that tests start, where there is npm; their tests are skipped elsewhere.
NODE := tests/clients/node
NODE_PACKAGES := $(if $(shell command -v npm 2>/dev/null),$(NODE)/node_modules/.package-lock.json)
# Two makes at once must not install into the same folder at once.
ONE_AT_A_TIME := $(if $(shell command -v flock 2>/dev/null),flock $(VENV),)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Wheels only, so no compiler is needed; nkeys (pure Python) is published as source alone.
LOCKED := --require-hashes --only-binary :all: --no-binary nkeys
# compat: a plain path entry, so a package folder added later is found without reinstalling.
EDITABLE := $(PIP_INSTALL) --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
# All the tests at once are shared out among processes (tests/conftest.py).
SHARED_OUT := --numprocesses 2
SOURCES := $(wildcard broker edge workers tests bench examples docs/endpoints.py docs/generate.py protos/generate.py)

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

install: $(RUNTIME) ## create .venv with the pinned packages and the millrace command

dev: $(DEV) ## install what tests and checks need too

clients: $(CLIENTS) ## install LangChain and LlamaIndex apart, for their tests

run: $(RUNTIME) ## start everything on 127.0.0.1:8000 (HTTP) and :8001 (gRPC); ARGS="..." are passed on
	@$(BIN)/millrace up $(ARGS)

test: $(DEV) $(NODE_PACKAGES) ## run the tests; ARGS="-k name" are passed to pytest
	@$(BIN)/python -m pytest $(or $(ARGS),$(SHARED_OUT))

check: $(DEV) ## lint, format, types, import contracts, generated code up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/endpoints.py --check

fix: $(DEV) ## repair what ruff can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pages: $(DEV) ## rewrite docs/providers.md and docs/endpoints.md from the declarations
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/endpoints.py

protos: $(DEV) ## regenerate broker/v1 from protos/
	$(BIN)/python protos/generate.py

buf: $(DEV) ## lint protos/ with buf (needs npx; not needed to build)
	$(BIN)/python protos/generate.py --image $(VENV)/protos.binpb
	npx --yes @bufbuild/buf@1.75.0 lint $(VENV)/protos.binpb --config protos/buf.json

soak: $(DEV) ## ten minutes of requests while processes come, go, freeze and die; FOR=60 for one
	@SOAK_SECONDS=$(or $(FOR),600) SOAK_RATE=$(or $(RATE),200) $(BIN)/python -m pytest -q -s tests/system/test_churn.py \
	  "tests/faults/test_catalogue.py::test_s15_who_is_down_is_asked_now_and_then_and_taken_back_in_30_s"

soak-batch: $(DEV) ## a batch of 50,000 lines while a random process dies every 5 s; LINES=5000 for a look
	@SOAK_LINES=$(or $(LINES),50000) $(BIN)/python -m pytest -q -s tests/system/test_batch_kills.py

bench: $(DEV) ## measure; PEERS=1 measures LiteLLM's proxy and a bare relay in the same run
	@PEERS=$(PEERS) $(BIN)/python -m bench $(ARGS)

bench-batch: $(DEV) ## measure a batch of a million lines; LINES=20000 for a look
	@$(BIN)/python -m bench.batch --lines $(or $(LINES),1000000) $(ARGS)

bench-capacity: $(DEV) ## measure how ten workers keep within what a provider allows, and use it
	@$(BIN)/python -m bench.capacity $(ARGS)

bench-lanes: $(DEV) ## measure what a batch costs requests that come beside it, over a minute
	@$(BIN)/python -m bench.lanes $(ARGS)

lock: $(DEV) ## renew deploy/*.lock to the newest versions that fit pyproject.toml
	$(PIP_INSTALL) uv
	$(BIN)/uv pip compile pyproject.toml --group build $(LOCK_OPTIONS) -o deploy/requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group build --group dev -c deploy/requirements.lock \
	  $(LOCK_OPTIONS) -o deploy/requirements-dev.lock
	$(BIN)/uv pip compile --group clients $(LOCK_OPTIONS) -o deploy/requirements-clients.lock

LOCK_OPTIONS := --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --no-annotate

clean: ## remove .venv and caches (data folders stay)
	rm -rf $(VENV) $(NODE)/node_modules .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info

# pip is the last thing that venv puts there: an interrupted venv is made again.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "millrace needs Python 3.11 or newer; install it, or name it: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "millrace needs Python 3.11 or newer; $(PYTHON) is older" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) could not create $(VENV); on Debian and Ubuntu install python3-venv" >&2; exit 1; }

$(RUNTIME): | $(BIN)/pip
	@echo "installing the pinned packages into $(VENV)"
	@$(ONE_AT_A_TIME) $(PIP_INSTALL) $(LOCKED) -r deploy/requirements.lock
	@$(ONE_AT_A_TIME) $(EDITABLE)
	@rm -f $(VENV)/.runtime-* && touch $@

# The dev lock holds the runtime too, so one pip run settles both.
$(DEV): | $(BIN)/pip
	@echo "installing the pinned packages and the development tools into $(VENV)"
	@$(ONE_AT_A_TIME) $(PIP_INSTALL) $(LOCKED) -r deploy/requirements-dev.lock
	@$(ONE_AT_A_TIME) $(EDITABLE)
	@rm -f $(VENV)/.dev-* $(VENV)/.runtime-* && touch $@ $(RUNTIME)

$(CLIENTS): | $(BIN)/pip
	@echo "installing LangChain and LlamaIndex into $(VENV)/clients"
	@rm -rf $(VENV)/clients $(VENV)/.clients-* && $(BIN)/python -m venv --without-pip $(VENV)/clients
	@$(BIN)/python -m pip --python $(VENV)/clients --quiet --disable-pip-version-check install \
	  $(LOCKED) --no-compile -r deploy/requirements-clients.lock
	@touch $@

# Without the network this fails, and the other tests run all the same.
$(NODE)/node_modules/.package-lock.json: $(NODE)/package-lock.json
	@echo "installing the clients for Node into $(NODE)/node_modules"
	@cd $(NODE) && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error \
	  && touch node_modules/.package-lock.json || echo "npm failed: tests of Node clients are skipped"
