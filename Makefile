# `make train` and `make test` do everything by themselves on a fresh machine with Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The pair that the README's figures were measured with. Other builds, such as the CPU-only ones of
# PyTorch's own index, are a matter of: make setup TORCH='torch torchvision --index-url URL'
TORCH ?= torch==2.14.1 torchvision==0.29.1
# Arguments for the command, as in: make train ARGS='optimizer.lr=3e-3 seed=1'
ARGS ?=
# A process for each core, of one thread: two of two threads would wait for each other. A process
# that has done its share takes tests from the other's.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal
PORT ?= 6006
HOST ?= 127.0.0.1

# What `make lock`, `make audit` and `make lowest` use, in an environment of their own.
TOOLS := .venv-tools
UV := $(TOOLS)/bin/uv
COMPILE = $(UV) pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --annotation-style line --custom-compile-command 'make lock' $(ARGS)

.DEFAULT_GOAL := help
.PHONY: again setup train test test-all torture hostile coverage lint docs settings tour bench recipes dashboard lock audit lowest licences clean help

# LOCKED=1: the versions in requirements.lock, each file checked by its hash.
LOCKED ?=
LOCKS := requirements-build.lock requirements.lock

MADE = $(shell cat $(VENV)/.installed 2>/dev/null)

$(VENV)/.installed: pyproject.toml Makefile $(if $(LOCKED),$(LOCKS) $(if $(filter locked,$(MADE)),,again))
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifdef LOCKED
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements-build.lock
	$(BIN)/python -m pip install --quiet --require-hashes --use-pep517 --no-build-isolation -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
endif
	echo $(if $(LOCKED),locked,newest) > $@

setup: $(VENV)/.installed  ## make .venv with the project and its tools; LOCKED=1: from the lock

train: setup  ## train an MLP on MNIST; ARGS='…' for other settings
	$(BIN)/python train.py $(ARGS)

test: setup  ## run the tests, on every core; ARGS='tests/models -x' for some
	$(PYTEST) -m 'not slow' $(ARGS)

test-all: setup  ## run also those that are slow by nature; ARGS='-m slow' for these alone
	$(PYTEST) $(ARGS)

torture: setup  ## break runs on purpose in 10,000 ways (hours); ARGS='kill --cases 200 --seed 3'
	$(BIN)/python tests/torture $(ARGS)

hostile: setup  ## try 50,000 hostile and damaged files (an hour); ARGS='--cases 2000 --seed 3'
	$(BIN)/python tests/hostile/many.py $(ARGS)

coverage: setup  ## run the tests and say which lines and branches of src/ they reach
	$(PYTEST) -m 'not slow' --cov --cov-report=term:skip-covered $(ARGS)

lint: setup  ## check style, types, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: settings  ## build the pages of docs/ with the API reference, in docs/_build/html
	$(BIN)/sphinx-build -W --keep-going --quiet docs docs/_build/html

settings: setup  ## write docs/settings.md anew, from conf/, and the badges, from pyproject.toml
	$(BIN)/python docs/settings_page.py
	$(BIN)/python docs/badges.py

tour: setup  ## execute docs/tour.ipynb and keep what it prints and draws
	$(BIN)/python docs/tour.py

bench: setup  ## measure what the README claims (two hours)
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/saving.py
	$(BIN)/python benchmarks/mlp_epoch.py
	$(BIN)/python benchmarks/recipe_epoch.py
	$(BIN)/python benchmarks/evaluate.py
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/frozen_step.py
	$(BIN)/python benchmarks/transfer.py
	$(BIN)/python benchmarks/cache.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/dashboard.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/web.py
	$(BIN)/python benchmarks/devices.py

recipes: setup  ## rerun every recipe; fail if one is outside its stated spread (half an hour)
	$(BIN)/python benchmarks/recipes.py $(ARGS)

$(UV):
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet uv pip-audit

lock: $(UV)  ## write the lock anew, what is in it kept; ARGS=--upgrade for the newest
	$(COMPILE) --group build -o requirements-build.lock
	echo $(TORCH) | tr ' ' '\n' > $(TOOLS)/torch.txt
	$(COMPILE) --constraint requirements-build.lock --constraint $(TOOLS)/torch.txt --extra dev pyproject.toml -o requirements.lock

audit: $(UV)  ## look for known holes in what is locked; fails where nothing can be learnt
	$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes $(LOCKS:%=--requirement %) $(ARGS)

lowest: $(UV)  ## run tiny experiments on the lowest versions declared (five minutes, 8 GB)
	.ci/lowest $(UV) $(PYTHON)

licences: setup  ## write docs/licences.md anew, from what is installed of the lock
	$(BIN)/python docs/licences_page.py

dashboard: setup  ## TensorBoard on outputs/, at http://127.0.0.1:6006 (PORT=… and HOST=… for another)
	$(BIN)/discern dashboard port=$(PORT) host=$(HOST) $(ARGS)

clean:  ## remove caches and builds; outputs/ and .venv stay
	rm -rf build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
