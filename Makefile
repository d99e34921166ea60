# `make demo` and `make test` do their own set-up on a fresh machine; everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-all lint bench docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[offline,data,gguf,documents,llm,8bit,report,web,lm-eval,ray,dev]"
	touch $@

demo: setup
	$(BIN)/unlearner demo

# PyTorch's CUDA builds bring Triton along; without one, its interpreter runs the GPU kernels in the tests.
# Not in constraints.txt: a CUDA build asks for a version of its own.
$(VENV)/.triton: $(VENV)/.ready
	[ "$$(uname)" != Linux ] || $(BIN)/python -c "import triton" 2>/dev/null || $(BIN)/pip install --quiet triton==3.9.0
	touch $@

# A file of tests stays in one process: its tests share what is slow to make. In the order of their folders the long
# files come first, and short ones last, so that no process is idle at the end. One process more than processors, because
# tests of commands wait for other processes.
WORKERS = $(shell $(PYTHON) -c "import os; print(min(4, os.cpu_count() + 1))")
PYTEST = $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test: setup $(VENV)/.triton
	$(PYTEST) -m "not slow"

test-all: setup $(VENV)/.triton
	$(PYTEST)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

# The pages, in site/. A link, an anchor or a name that is not there is an error.
docs: setup $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation, to be opened in a browser: site/index.html"

clean:
	rm -rf $(VENV) demo runs build dist site .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
