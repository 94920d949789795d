# `make test` and `make results` build the environment from nothing; a second run installs nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: results test clean

results: $(INSTALLED)
	$(BIN)/python -m experiments
	$(BIN)/accumcheck check harness.loops:early_first_step --figure results/figures/early_first_step.png || test $$? -eq 1
	$(BIN)/python -m experiments.notebook

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) results/partial
