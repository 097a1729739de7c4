# GNU make, git, a C++ compiler and Python are all that is assumed; the rest is installed into .venv.
#
#   make setup              create or repair .venv (three and a quarter minutes once on two quiet cores, seconds from then on)
#   make lint               check style and layout with ruff, as the hooks of .pre-commit-config.yaml do
#   make test               the test suite; PYTEST_ARGS="-k tools" for a part of it
#   make quick              A-FAN on a small classifier of digits: needs no compiler
#   make demo               train and evaluate both A-FAN demos on generated digits (five and a half minutes on two quiet cores)
#   make docs               build the documentation into docs/_build/html; warnings are errors
#   make clean              remove build products and caches; data, work_dirs and .venv stay
#
# PYTHON chooses the interpreter that .venv is made from: make PYTHON=python3.10 setup

PYTHON ?= python3
PYTEST_ARGS ?=
VENV_PYTHON := .venv/bin/python

.PHONY: setup lint test quick demo docs clean

setup:
	$(PYTHON) tools/setup_env.py

lint: setup
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .

test: setup
	$(VENV_PYTHON) -m pytest $(PYTEST_ARGS)

quick:
	$(PYTHON) tools/quick.py

demo: setup
	$(VENV_PYTHON) tools/demo.py

docs: setup
	$(VENV_PYTHON) -c "import furo, myst_parser, sphinx, sphinx_copybutton" 2>/dev/null || \
		$(VENV_PYTHON) -m pip install -r requirements-docs.txt
	$(VENV_PYTHON) -m sphinx -W --keep-going -n -q docs docs/_build/html

clean:
	rm -rf docs/_build build dist *.egg-info .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +
