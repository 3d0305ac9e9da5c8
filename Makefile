# Builds, checks and runs kvserve in a virtual environment of its own. Start with: make help
# Needs python3 (3.11 or newer) with venv, a C compiler and make; pip fetches the rest.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& command -v $$python && break; done)
VENV ?= .venv
ARGS ?=
PIP = $(VENV)/bin/pip --quiet --disable-pip-version-check

# Our own builds take no warning in the C core. Users' builds do, see setup.py.
export KVSERVE_STRICT ?= 1
# The wheel is what is run and tested: `python -m` must not find the sources in this directory.
export PYTHONSAFEPATH = 1

# Directories are in it too, so that a removed file is noticed.
SOURCES := setup.py pyproject.toml MANIFEST.in LICENSE $(wildcard README.md) \
	$(shell find kvserve -name __pycache__ -prune -o -name '*.so' -o -print)

.PHONY: help serve test test-kill test-soak fuzz lint bench wheel clean
.DELETE_ON_ERROR:

help:
	@echo "make serve   build, install into $(VENV), run 'kvserve serve' (options: ARGS='--workers 2')"
	@echo "make test    build the wheel, install it, then ruff, mypy and pytest (one test: ARGS=path)"
	@echo "make test-kill  die at every instruction of every change of the table (one seed: ARGS=7)"
	@echo "make test-soak  a thousand timed kills under load (another number: KILLS=5000)"
	@echo "make fuzz    fuzz the core, each target for FUZZ_SECONDS=60 (clang: guided by coverage)"
	@echo "make lint    only ruff and mypy"
	@echo "make bench   the benchmarks, quick or TIME=full (some questions: ARGS='hit round_trip')"
	@echo "make wheel   only the wheel, in dist/"
	@echo "make clean   remove what make made"
	@echo "PYTHON=python3.12 chooses the interpreter, VENV=DIRECTORY another environment."

serve: $(VENV)/.installed
	exec $(VENV)/bin/kvserve serve $(ARGS)

test: lint $(VENV)/.installed-dev
	$(VENV)/bin/pytest $(or $(ARGS),tests/)

test-kill: $(VENV)/.installed-dev
	PYTHONPATH=tests $(VENV)/bin/python -m fault.kill_everywhere $(ARGS)

test-soak: $(VENV)/.installed-dev
	KVSERVE_TEST_KILLS=$(or $(KILLS),1000) KVSERVE_TEST_LINEARIZABILITY_SECONDS=20 \
		KVSERVE_TEST_ATTACHES=10000 KVSERVE_TEST_STRIDE=1 \
		$(VENV)/bin/pytest -s tests/fault/test_soak.py tests/fault/test_holders.py \
		tests/fault/test_table_kills.py tests/fault/test_linearizability.py \
		tests/fault/test_limits.py $(ARGS)

fuzz: $(VENV)/.installed-dev
	$(VENV)/bin/python tests/fuzz/campaign.py --seconds $(or $(FUZZ_SECONDS),60)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict kvserve

# pylibmc needs libmemcached-dev where it has no wheel; without it the benchmarks say so.
bench: $(VENV)/.installed-bench
	@$(PIP) install pylibmc 2>/dev/null || true
	PYTHONSAFEPATH= $(VENV)/bin/python -m benchmarks --time $(or $(TIME),quick) $(ARGS)

wheel: $(VENV)/.built
	mkdir -p dist
	cp $(VENV)/wheel/*.whl dist/

clean:
	rm -rf $(VENV) build dist kvserve.egg-info .mypy_cache .pytest_cache .ruff_cache \
		.hypothesis .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +

# A failed creation leaves no stamp, so that the next run starts again.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "kvserve needs Python 3.11 or newer, and found none." \
		"Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is" \
		"no Python 3.11 or newer; name another: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment;" \
		"on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

# build/ goes first: setuptools would pack what a removed module left there. The wheel lies in the
# environment, because it fits no other Python than this one.
$(VENV)/.built: $(SOURCES) $(VENV)/.made
	rm -rf build $(VENV)/wheel
	$(PIP) wheel --no-deps --wheel-dir $(VENV)/wheel .
	@touch $@

# The version stays the same from build to build, so pip would keep what it has installed.
define install
	$(PIP) uninstall --yes kvserve 2>/dev/null
	$(PIP) install "$$(echo $(VENV)/wheel/*.whl)$(extras)"
	@touch $@ $(VENV)/.installed
endef

$(VENV)/.installed $(VENV)/.installed-dev $(VENV)/.installed-bench: $(VENV)/.built
	$(install)

$(VENV)/.installed-dev: extras = [dev]
$(VENV)/.installed-bench: extras = [test,bench]
