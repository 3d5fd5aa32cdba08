# Everything a fresh machine needs: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export OMP_NUM_THREADS = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test test-long prove check coverage docs lint lint-python lint-rtl bench bench-quick clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ditto-cosim needs Python 3.11 or newer; say PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone: asked for together with others, pip may choose another build of it. Modules are compiled when they
# are first imported: two thirds of what is installed never is, and compiling it takes longer than unpacking it.
PIP_INSTALL = $(BIN)/pip install --quiet --no-compile
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) torch==2.13.0
	$(PIP_INSTALL) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

install: $(VENV)/.installed ## the environment, without test tools
install-dev: $(VENV)/.installed-dev ## the environment, with test tools

demo: $(VENV)/.installed ## a sentence becomes a picture through Verilated RTL, every value verified
	@echo "emoji-sd, a small Stable Diffusion trained here on 1,026 emoji (docs/models.md): 25 steps with guidance, in RTL"
	$(BIN)/ditto generate --model emoji-sd --prompt "smiling cat" --backend rtl --verify --seed 1 --output runs/demo --overwrite

# What a commit needs, in less than a minute: style, types, walls, and the tests that need neither a model nor the RTL.
CHECKED = tests/protocol tests/unit/test_architecture.py tests/unit/test_chips.py tests/unit/test_defo.py \
  tests/unit/test_errors.py tests/unit/test_record.py tests/unit/test_report.py tests/unit/test_time_units.py

check: | $(VENV)/.installed-dev ## what a commit needs, < 60 s
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(MYPY)
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q -m 'not long' $(CHECKED)

test: install-dev ## lint and all quick tests
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not long'

test-long: install-dev ## soaks: full fuzz counts, kill storms, long regressions
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[synth]'
	$(BIN)/python -m pytest -m long
	@$(MAKE) --no-print-directory coverage

coverage: install-dev ## lines of host, device, protocol and sim_harness that the quick tests reach
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not long' --cov --cov-report=term:skip-covered --cov-report=html

MYPY = $(BIN)/mypy -p ditto_cosim && $(BIN)/mypy tests examples

docs: install-dev ## these pages, into build/docs, warnings are errors; the report's picture from the demo's run
	@$(BIN)/python docs/screenshot.py runs/demo
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs

lint: install-dev lint-python lint-rtl ## style, types, import rules, RTL lint

lint-python: | $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MYPY)
	$(BIN)/lint-imports --no-cache

lint-rtl: | $(VENV)/.installed-dev
	$(BIN)/ditto rtl lint

prove: install-dev ## proofs of the RTL: minutes
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[synth]'
	$(BIN)/ditto rtl prove

bench: install-dev ## every benchmark, tables
	for b in rtl wire dram price model generate; do $(BIN)/ditto bench $$b; done

bench-quick: install-dev ## all ratios beside those last recorded for this processor
	$(BIN)/ditto bench ratios --quick

clean: ## everything made, the environment too
	rm -rf $(VENV) build runs .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
