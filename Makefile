# Every target sets up ./.venv by itself: Python, pip, venv and make are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NNUNET := $(VENV)/nnunet/.installed

.PHONY: setup demo test check bench clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(NNUNET): $(STAMP) tests/nnunet_env.py tests/torchvision_shim.py
	$(BIN)/python tests/nnunet_env.py
	touch $@

setup: $(STAMP) $(NNUNET)

demo: $(STAMP)  ## phantom cases, a short training, a table and pictures in ./demo-output
	$(BIN)/gpu-synth demo --out demo-output

test: $(STAMP) $(NNUNET)
	$(BIN)/pytest --numprocesses auto --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/gpu-synth bench

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output
