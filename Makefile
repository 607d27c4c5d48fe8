# Every target sets up ./.venv by itself: Python, pip, venv and make are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test check bench clean

$(STAMP): pyproject.toml constraints.txt tests/nnunet_env.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python tests/nnunet_env.py
	touch $@

setup: $(STAMP)

demo: $(STAMP)  ## phantom cases, a short training, a table and pictures in ./demo-output
	$(BIN)/gpu-synth demo --out demo-output

test: $(STAMP)
	$(BIN)/pytest --numprocesses auto --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/gpu-synth bench

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output
