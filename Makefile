# The front door: `make help`.
SHELL := bash
# The first of these that starts (a shim on the PATH may not).
starting = $(shell python$(1) -c 'import sys; print(sys.executable)' 2>/dev/null)
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,$(call starting,$(version))) python3)
BIN := .venv/bin
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
# What a chapter's numbers depend on besides its own notebook.
INPUTS := notebooks/profiles.yml $(shell find src data -type f -not -name '*.pyc' -not -name '*.sqlite*')
PAGES := _config.yml _toc.yml $(shell find book -type f -not -name '*.pyc')

# Chapters and tests start hundreds of processes; where none keeps what it has compiled, as some
# containers ask of Python, each spends seconds compiling PyTorch's modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install book test rehearsal lint clean

help:
	@echo 'gengap: predicting generalization, a compendium of reproduced results'
	@echo
	@echo '  make book       install, execute every chapter that is out of date, render the HTML'
	@echo '  make test       unit, golden and notebook tests'
	@echo '  make rehearsal  every chapter on archives in the published layouts, from a local server'
	@echo '  make lint       style, types and who imports whom'
	@echo '  make install    only the environment, in .venv (PYTHON=... names the interpreter)'
	@echo '  make clean      delete _build: the rendered book and the record of what was executed'
	@echo
	@echo 'Then: .venv/bin/gengap --help'

install: .venv/installed

book: _build/rendered
	@echo 'The book: open file://$(CURDIR)/_build/html/index.html'

# One session, a worker of one thread a core, each notebook whole in one worker, in the order of
# testpaths: chapters take minutes, and must not be what a last worker begins with.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --ignore=tests/archives

# A test of its own: it executes all chapters once more. Its workers share no archives.
rehearsal: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/archives --numprocesses auto --dist load

lint: .venv/installed
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/lint-imports
	$(BIN)/mypy

clean:
	rm -rf _build

# Python compiles what it imports; compiling every file of every package takes as long as installing.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --no-compile --constraint constraints.txt setuptools
	$(BIN)/pip install --no-compile --constraint constraints.txt --no-build-isolation --editable .[test,dev]
	@touch $@

# After a change of the inputs every chapter, otherwise the changed ones.
_build/executed: $(NOTEBOOKS) $(INPUTS) .venv/installed
	$(BIN)/gengap run $(if $(filter-out notebooks/%.ipynb,$?),,$(patsubst notebooks/%.ipynb,%,$?))
	@mkdir -p $(@D)
	@touch $@

_build/rendered: _build/executed $(PAGES)
	$(BIN)/gengap book
	@touch $@
