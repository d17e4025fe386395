# The two commands: `make book` and `make test`. Each makes .venv on its first run; python3 (3.11.4 or newer,
# with venv), make and git are all that must be there.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# Every kernel imports torch anew: compiled once, that takes two seconds, else five.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install book test test-all test-fast notebooks pdf lint clean
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

install: $(STAMP)  ## make .venv with the exact, tested packages (the other targets do it by themselves)

# The stamp is written last, so an installation that broke off is done again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11, 4) or sys.exit("adlib needs Python 3.11.4 or newer, but $(PYTHON) is %d.%d.%d. Give another one: make PYTHON=python3.12 ..." % v[:3])'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -c 'import sys; v = sys.version_info; v >= (3, 11, 4) or sys.exit("$(VENV) was made with Python %d.%d.%d, but adlib needs 3.11.4 or newer. Delete $(VENV) and run make again." % v[:3])'
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(VENV)/bin/uv pip install --python $(PY) --constraint constraints.txt --build-constraint constraints.txt --editable '.[book,dev,export,cluster]'
	@touch $(STAMP)

book: $(STAMP)  ## run every chapter and build the HTML book
	$(PY) book/tools/build.py

# loadfile: a file, and so a notebook's kernel or a costly fixture, belongs to one worker. The longest come first.
# (xdist 3.8 does not see groups with pytest 9.2, so loadgroup would tear notebooks apart.)
test: $(STAMP)  ## lint, and the tests and the committed notebooks on two workers; after make book
	@status=0; $(MAKE) --no-print-directory lint || status=1; \
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --nbval-lax --nbval-current-env \
	    --nbval-kernel-startup-timeout 300 $(ALL) notebooks tests || status=1; exit $$status

test-all: $(STAMP)  ## the same, and every notebook again with another seed, for the paper's settings, and as on Colab
	@$(MAKE) --no-print-directory test ALL=--all

test-fast: lint  ## about a minute: lint, and the quick tests of the library and the equations
	$(PY) -m pytest -q -n 2 --dist loadfile -m "not slow" tests/library tests/equations

notebooks: $(STAMP)  ## run the notebooks, as far as make book has not, and write the outputs that are committed
	$(PY) book/tools/notebooks.py

pdf: $(STAMP)  ## print the whole book to build/adlib.pdf (needs Chromium); builds the book where it is missing
	$(PY) book/tools/pdf.py

lint: $(STAMP)  ## ruff and the type checker
	@status=0; $(VENV)/bin/ruff check . || status=1; $(VENV)/bin/pyrefly check || status=1; exit $$status

clean:  ## delete what was built; .venv stays
	rm -rf build dist .pytest_cache .ruff_cache
