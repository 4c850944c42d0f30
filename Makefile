# The verbs of this repository; CI calls the same ones. `make` alone lists them.
PYTHON ?= python3
TORCH ?= 2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := --numprocesses auto --maxprocesses 8

.PHONY: help setup demo train-demo quality train-gpu beside test test-all test-gpu lint format lock build clean
.DEFAULT_GOAL := help

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.stamp  ## make .venv from requirements.lock (again only when the lock or pyproject.toml changed)

$(VENV)/.stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "jedi-env needs Python 3.11 or newer, and '$(PYTHON)' is not: say 'make setup PYTHON=/path/to/python3.11'." >&2; \
	    exit 1; }
	@test -x $(BIN)/pip || { echo "Creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing requirements.lock into $(VENV) (minutes on the first time: torch is large)"
	@$(PIP) install -qq -r requirements.lock
	@$(PIP) install -qq --no-deps --no-build-isolation -e .
	@touch $@

demo: setup  ## the main job: PPO learns in the shipped Breakout dream and plays the real game (minutes), into runs/demo
	$(BIN)/python -m trainers.demo --out runs/demo

train-demo: setup  ## the same from raw frames: the dream is trained too (some 17 minutes), into runs/train-demo
	$(BIN)/python -m trainers.demo --train --steps 100000 --out runs/train-demo

quality: setup  ## the gate that every change to a model or a trainer passes: learning on Catch, three seeds (some 35 minutes of one core)
	$(BIN)/python -m trainers.quality --out runs/quality

MINUTES ?= 9
OUT ?= runs/gpu
FLAGS ?=
WHEELS := .whl
SITE := build/site
BESIDE = PYTHONPATH=$(SITE)$${PYTHONPATH:+:$$PYTHONPATH}
# A lent machine has no .venv and no network: there its own Python, and beside it what travelled in $(WHEELS).
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

train-gpu: beside  ## MINUTES of paper-size JEDI on the GPU at hand, going on from gpu/, into OUT (docs/gpu.md); no network
	$(BESIDE) $(GPU_PYTHON) -m trainers.gpu --minutes $(MINUTES) --out $(OUT) $(FLAGS)

beside:
	@$(GPU_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "jedi-env needs Python 3.11 or newer, and '$(GPU_PYTHON)' is not: name another with GPU_PYTHON=." >&2; exit 1; }
	@test -x $(BIN)/python || test ! -d $(WHEELS) || $(GPU_PYTHON) -m pip install --disable-pip-version-check -q --no-index --no-deps \
	    --no-compile --upgrade --target $(SITE) $(WHEELS)/*.whl
	@$(BESIDE) $(GPU_PYTHON) -c 'import torch, gymnasium, ale_py, tyro, tensorboard, matplotlib, filelock' || { \
	    echo "'$(GPU_PYTHON)' lacks what training needs (see above): carry it in $(WHEELS)/, see docs/gpu.md." >&2; exit 1; }

test: setup lint  ## lint, then every test that is neither slow nor needs a GPU
	$(PYTEST) $(PARALLEL) -m "not slow and not gpu"

test-all: setup lint  ## lint, then every test that needs no GPU
	$(PYTEST) $(PARALLEL) -m "not gpu"

test-gpu: $(if $(wildcard $(WHEELS)),beside,setup)  ## the tests that need a CUDA device; where .whl travelled, without a network
	$(if $(wildcard $(WHEELS)),$(BESIDE) $(GPU_PYTHON) -m pytest,$(PYTEST)) -m gpu $$(grep -rlF mark.gpu --include='*.py' tests)

lint: setup  ## ruff and strict mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## let ruff fix and format everything
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## resolve pyproject.toml anew into requirements.lock (TORCH=x.y.z moves torch)
	rm -rf build
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install -q "torch==$(TORCH)" ".[all,dev]"
	{ grep '^#' requirements.lock; \
	  build/lock/bin/pip list --format=freeze --exclude pip --exclude jedi-env \
	    | sed -E "s/\+[^ ]*$$//; s/^Box2D==.*/&; platform_machine != 'aarch64' and python_version < '3.14'/" | grep -Ev '^(nvidia|cuda|triton)'; } > build/requirements.lock
	mv build/requirements.lock requirements.lock
	rm -rf build

build: setup  ## sdist and wheel into dist/
	$(BIN)/python -m build --no-isolation

clean:  ## remove what the other verbs made, except .venv and runs/
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find jedi_env trainers tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
