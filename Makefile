# Each target works as the first command on a fresh clone: it makes the virtual environment that it needs.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The first Python that is new enough.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: setup demo test fuzz lint type format wheel deb dashboard bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "edged needs Python 3.11 or newer with venv (Debian: apt install python3-venv); or: make PYTHON=..." >&2; exit 2; }
	@# A torch that is there already, such as the CPU build, is kept as long as it satisfies the constraints.
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,train,demo,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python bench/demo.py $(if $(SERVE),--serve)

# Most tests wait for processes and disks, so more of them than CPUs run side by side.
test: lint type
	$(BIN)/python -m pytest -n 3 --dist loadgroup

# Looks for new examples, where `make test` tries the same ones every time; TIMES as many.
fuzz: $(STAMP)
	EDGED_FUZZ_TIMES=$(or $(TIMES),20) $(BIN)/python -m pytest tests/edged/test_fuzz.py tests/edged/media/test_imaging.py tests/edged/test_lifecycle.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(STAMP)
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls -l dist

# A package for the Debian that this runs on, with all that it needs inside.
deb: wheel
	PIP=$(BIN)/pip debian/build.sh dist/edged-*.whl dist

dashboard: $(STAMP)
	$(BIN)/python configs/grafana/build.py

bench: $(STAMP)
	$(BIN)/python bench/throughput.py

clean:
	rm -rf $(VENV) demo dist
