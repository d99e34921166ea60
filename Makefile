# `make demo` and `make test` do their own set-up on a fresh machine; everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[offline,data,8bit,report,lm-eval,ray,dev]"
	touch $@

demo: setup
	$(BIN)/unlearner demo

# PyTorch's CUDA builds bring Triton along; without one, its interpreter runs the GPU kernels in the tests.
# Not in constraints.txt: a CUDA build asks for a version of its own.
$(VENV)/.triton: $(VENV)/.ready
	[ "$$(uname)" != Linux ] || $(BIN)/python -c "import triton" 2>/dev/null || $(BIN)/pip install --quiet triton==3.9.0
	touch $@

test: setup $(VENV)/.triton
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) demo runs build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
