# Tasks of the project; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# the bundle that ships is made from the shipped checkpoint by `make bundle`
MINI := edge_vqa/bundles/mini
BASE := models/base

.DEFAULT_GOAL := help
.PHONY: help demo test test-arm64 test-x86_64 wheels lint fix bundle base measure study study-base trust sheet readme clean

help: ## list the tasks
	@grep -hE '^[a-z0-9_-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9_-]+):[^#]*## /\1\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "edge-vqa needs Python 3.11: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Package and base model installed alone: what a user gets.
$(VENV)/.installed: pyproject.toml $(BASE)/pyproject.toml $(BASE)/edge_vqa_base/bundle.json | $(BIN)/python
	@echo "Installing edge-vqa. llama.cpp is compiled on the way: about 4 minutes on two cores, nothing afterwards."
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -e . ./$(BASE)
	@touch $@

# With what training, conversion and the tests need.
$(VENV)/.dev: pyproject.toml $(VENV)/.installed
	@echo "Installing what conversion, training and the tests need (torch for CPU among it)."
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps lmms-eval==0.7.3
	@touch $@

demo: $(VENV)/.installed ## install the package with the base model and ask about five photographs: one question is not answered
	@sh examples/demo.sh $(BIN)/edge-vqa

test: $(VENV)/.dev ## install what the tests need and run them all
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not alone"
	$(BIN)/python -m pytest -m alone

test-arm64: $(VENV)/.dev ## install and ask in an emulated arm64 Debian (as root, on Debian x86-64; 20 minutes the first time)
	$(BIN)/python -m tests.arm64

test-x86_64: $(VENV)/.dev ## ask on older x86-64 processors, emulated (on Debian; 10 minutes after `make wheels`)
	$(BIN)/python -m tests.x86_64

wheels: $(VENV)/.dev ## wheels for devices without a compiler, x86-64 and arm64, into wheels/ (on Debian; 25 minutes the first time)
	$(BIN)/python -m recipes.wheels

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/.dev ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bundle: $(VENV)/.dev ## make the embedded bundle again from the shipped checkpoint (needs the recipe's data)
	sh recipes/mini/bundle.sh $(BIN) $(MINI)

measure: $(VENV)/.dev ## measure everything the model card states (needs the recipe's data; about 15 minutes)
	$(BIN)/python -m recipes.mini.measure

study: $(VENV)/.dev ## what quantisation costs in accuracy and trust (needs the recipe's data; an hour the first time)
	sh recipes/mini/study.sh $(BIN)

base: $(VENV)/.dev ## make the base bundle again from what was learned, with its gate and figures (needs the recipe's data; 30 minutes)
	$(BIN)/python -m recipes.base.bundle -o build/base/bundle
	sh recipes/base/gate.sh $(BIN) build/base/bundle
	$(BIN)/python -m recipes.base.measure build/base/bundle
	rm -f $(BASE)/edge_vqa_base/*.onnx && cp build/base/bundle/* $(BASE)/edge_vqa_base/

study-base: $(VENV)/.dev ## the same of the base model, whose LM is a pretrained LLM, into docs/study.md (needs the recipes' data)
	$(BIN)/python -m recipes.base.study

trust: $(VENV)/.dev ## what both gates make of foreign pictures, into docs/trust.md (needs the recipes' data and traces; two hours the first time)
	sh recipes/trust/gate.sh $(BIN) $(MINI) mini build/mini/calibration_traces.npz
	sh recipes/trust/gate.sh $(BIN) $(BASE)/edge_vqa_base base build/base/calibration_traces.npz
	$(BIN)/python -m recipes.trust.measure

sheet: $(VENV)/.dev ## ask both models about the examples and draw the README's contact sheets
	$(BIN)/python -m recipes.mini.examples sheet
	$(BIN)/python -m recipes.base.examples

readme: $(VENV)/.dev ## run the README's commands again and write their output into it
	$(BIN)/python -m tests.readme --write

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) build dist wheels .pytest_cache .mypy_cache .ruff_cache
