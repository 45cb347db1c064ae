# `make demo` sets up and runs the main job; `make test` sets up and passes the tests.
# Both install once, into .venv, and skip that the next time.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: demo test clean

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

# a finished demo is not made again; remove outputs/demo for a fresh one
demo: $(STAMP) outputs/demo/run.json
	@echo "See outputs/demo/samples/final.png"

outputs/demo/run.json: | $(STAMP)
	$(VENV)/bin/python train.py subject=dog ppl=true hydra.run.dir=outputs/demo

test: $(STAMP)
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m pytest

clean:
	rm -rf $(VENV) outputs multirun
