PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test faults check format clean

demo: $(STAMP)  ## a small model is pretrained and kept current on text that every Python carries; opens nothing, needs no network
	$(BIN)/clray run jobs/quickstart.yaml

test: $(STAMP)  ## all tests but those that kill things for minutes
	$(BIN)/python -m pytest -q -m "not fault"

faults: $(STAMP)  ## kills drivers, workers and nodes of a real cluster, and makes the tables of RELIABILITY.md
	CLRAY_RELIABILITY=RELIABILITY.md $(BIN)/python -m pytest -q tests/fault tests/cluster/test_slurm.py tests/train/test_loop.py

check: $(STAMP)  ## format, lint, types, import rules, tests
	$(BIN)/ruff format --check clray tests benchmarks
	$(BIN)/ruff check clray tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m "not fault"

format: $(STAMP)
	$(BIN)/ruff format clray tests benchmarks
	$(BIN)/ruff check --fix clray tests benchmarks

$(STAMP): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,hub]'
	touch $(STAMP)

clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
