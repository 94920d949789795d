# `make test` and `make results` build the environment from nothing; a second run installs nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# Asks for torchvision and spacy, which its training loop does not use: so without what it asks for.
FASTAI := fastai fastcore fastdownload fastprogress fasttransform plum-dispatch beartype

.PHONY: results test clean

results: $(INSTALLED)
	$(BIN)/python -m experiments
	$(BIN)/accumcheck check accumcheck.corpus.published:early_first_step --figure results/figures/early_first_step.png || test $$? -eq 1
	$(BIN)/python -m experiments.lab.notebook
	$(BIN)/python -m experiments.lab.page

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 -m 'not slow'

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt requests
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps $(FASTAI)
	touch $@

clean:
	rm -rf $(VENV) results/partial
