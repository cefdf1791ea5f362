# One-word recipes; pre-commit and CI call the same ones. `make PYTHON=...` picks another interpreter.
PYTHON ?= python

.PHONY: install lint format types layers test slow coverage check schema reference docs wheel

install:
	$(PYTHON) -m pip install -e ".[dev]"

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# The package strictly; of the scripts, which follow it, whether they call what is there.
types:
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy --config-file=.mypy-scripts.ini

layers:
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

test:
	$(PYTHON) -m pytest

slow:
	$(PYTHON) -m pytest -m slow

# Lines and branches that the default tests reach, in their own processes and those that they start; fails under
# `fail_under` of pyproject.toml.
coverage:
	$(PYTHON) -m coverage erase
	$(PYTHON) -m coverage run -m pytest
	$(PYTHON) -m coverage combine --quiet
	$(PYTHON) -m coverage report

# The built wheel in a clean environment, against the tests: the whole default suite.
wheel:
	PYTHON=$(PYTHON) scripts/check_wheel.sh

check: lint types layers test

# Publishes the JSON Schemas of all results; tests/report/test_schema.py holds the copies against the code.
schema:
	$(PYTHON) -c "from pathlib import Path; from infprune.report.schema import publish; publish(Path('docs/schema'))"

# Writes docs/reference/ anew; tests/test_reference.py holds the copies against the code.
reference:
	$(PYTHON) scripts/reference.py

# The documentation site, into build/site. Warnings are errors: a dead link or anchor ends it.
docs:
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet -f .mkdocs.yml
