PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check format clean

demo: $(STAMP)  ## a small model is pretrained and kept current on text that every Python carries; opens nothing, needs no network
	$(BIN)/clray run jobs/quickstart.yaml

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest -q

check: $(STAMP)  ## format, lint, types, import rules, tests
	$(BIN)/ruff format --check clray tests benchmarks
	$(BIN)/ruff check clray tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q

format: $(STAMP)
	$(BIN)/ruff format clray tests benchmarks
	$(BIN)/ruff check --fix clray tests benchmarks

$(STAMP): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,hub]'
	touch $(STAMP)

clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
