# The environment is made on first use, in .venv.
#   make nbody    train the O(3) example on the CPU, about two minutes
#   make examples all experiments at their small size, each one to three minutes on the CPU; reports in runs/
#   make test     lint, types, all tests
#   make bench    time and memory beside other ways to compute the same, with pictures, in runs/benchmarks
# TORCH chooses the build of PyTorch: make test TORCH=torch==2.11.0. BENCH_ARGS goes to python -m benchmarks.

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
PYTEST_ARGS ?= -n auto

.PHONY: test nbody examples bench lint types clean

test: lint types
	$(BIN)/python -m pytest $(PYTEST_ARGS)

nbody: .venv/installed
	$(BIN)/python -m examples.nbody_o3

EXAMPLES := $(patsubst configs/%_small.yaml,%,$(wildcard configs/*_small.yaml))

examples: .venv/installed
	@for name in $(EXAMPLES); do \
		$(BIN)/python -m examples.$$name fit --config configs/$${name}_small.yaml || exit 1; \
	done

bench: .venv/installed
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv runs build dist
