# Every target sets up what it needs: `make demo` and `make test` work from a bare clone.
PYTHON ?= python3
DEVICE ?= auto
ARGS ?=
BIN := .venv/bin
export PYTHON DEVICE

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint docs clean

help:  ## list these targets
	@echo "make TARGET    (PYTHON=python3.11 picks the interpreter, DEVICE=cpu|cuda overrides what nvidia-smi says)"
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 12

setup:  ## make .venv with torch, compiled mmcv operators, mmdet, mmseg and this package
	@bash tools/setup.sh

demo: setup  ## train, evaluate and draw in minutes on a CPU; ARGS="--task semantic" for segmentation
	$(BIN)/hybrid-dense demo $(ARGS)

lint: setup  ## ruff, and the rules of who may import whom
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

test: lint  ## lint, then the tests; ARGS go to pytest, HYBRID_DENSE_DATA=folder adds those on real data
	$(BIN)/python -m pytest $(ARGS)

docs: setup  ## write the generated tables of docs/ and README.md anew
	$(BIN)/python tools/make_docs.py

clean:  ## remove .venv and caches; built wheels (.cache/wheels) and work_dirs/ stay
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache *.egg-info build
	find hybrid_dense tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
