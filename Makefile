# `make demo` sets up and runs the main job; `make test` sets up and passes the tests.
# Both install what constraints.txt names into .venv, once, and again when it changes.
PYTHON ?= $(shell .ci/python)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: demo test test-all test-fast lint constraints clean

# setuptools first: without build isolation, it too is the version that was tested
$(STAMP): pyproject.toml setup.py constraints.txt
	test -n '$(PYTHON)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--no-build-isolation --editable '.[dev]'
	touch $(STAMP)

# a finished demo is not made again; remove outputs/demo for a fresh one
demo: $(STAMP) outputs/demo/run.json
	@echo "See outputs/demo/samples/final.png"

outputs/demo/run.json: | $(STAMP)
	$(BIN)/python train.py subject=dog ppl=true hydra.run.dir=outputs/demo

test: lint
	$(PYTEST) -m 'not thorough'

# also what takes several processes, kills them, or trains every choice in turn: ten minutes
test-all: lint
	$(PYTEST)

# a minute instead of four
test-fast: $(STAMP)
	$(PYTEST) -m 'not slow'

lint: $(STAMP)
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/pyright

constraints:
	.ci/constraints '$(PYTHON)'

clean:
	rm -rf $(VENV) outputs multirun
