# The two commands of this project: `make demo` and `make test`. Each makes .venv by itself and says what it is doing.
# Needed: Python 3.10 or newer, make, a C compiler. The folder may have any name and nothing outside it is written to.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
FRAMEWORKS := $(VENV)/.frameworks
BENCH_DATA ?= demo_out/bench

# mypy finds the package by its folder's name, and a clone's folder may have any: .venv/typing/penstock is a link to it.
ROOMS := cli ingest integrations loaders shards transforms
MODULES := $(patsubst %.py,-m penstock.%,$(filter-out __init__.py,$(wildcard *.py))) $(patsubst %,-p penstock.%,$(ROOMS))

.PHONY: demo test lint types bench rivals table clean

$(STAMP): pyproject.toml constraints.txt
	@echo "penstock: making $(VENV) with $$($(PYTHON) --version) and installing what pyproject.toml asks for (a few minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed: make PYTHON=python3.11 ...")'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(FRAMEWORKS): $(STAMP)
	@echo "penstock: installing the frameworks that the examples run in, for their tests"
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,dev-frameworks]'
	@touch $@

demo: $(STAMP) ## images in, a trained model out
	@echo "penstock: running the demo (generate, convert, train on two processes, kill, resume); output in demo_out/"
	$(PY) -m benchmarks.demo --out demo_out

test: $(FRAMEWORKS) lint types ## all checks and tests
	@echo "penstock: running the tests"
	$(PY) -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	@echo "penstock: ruff"
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(FRAMEWORKS)
	@echo "penstock: mypy --strict on the package, then on benchmarks/, tests/ and examples/"
	@mkdir -p $(VENV)/typing && ln -sfn "$(CURDIR)" $(VENV)/typing/penstock
	MYPYPATH=$(VENV)/typing $(PY) -m mypy -m penstock $(MODULES)
	MYPYPATH=$(VENV)/typing:tests $(PY) -m mypy --explicit-package-bases benchmarks tests examples

bench: $(STAMP) ## our loader against torch's, which gets an environment of its own as every rival does (1 GB)
	$(PY) -m benchmarks.rivals.install torch
	$(PY) -m benchmarks.table --data $(BENCH_DATA) --only penstock,torch --workloads W1,W4 --scale 0.5 --rounds 3 --seconds 2 --warm 2 --json demo_out/bench.json

rivals: $(STAMP) ## an environment for every rival of the table (about 9 GB; nothing in them is used by the package)
	$(PY) -m benchmarks.rivals.install

table: $(STAMP) ## every loader side by side; see docs/benchmarks.md
	$(PY) -m benchmarks.table --data $(BENCH_DATA) --prune 0.7 --json demo_out/table.json --png demo_out/table.png --markdown demo_out/table.md

clean:
	rm -rf $(VENV) demo_out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
