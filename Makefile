# Two commands on a fresh machine: `make quickstart` and `make test`. Each sets itself up.
.PHONY: quickstart test test-fast test-all lint format setup browser clean
PYTHON ?= python3
# Named on the command line, as in `make test PYTHON=python3.13`, a Python other than the one of .venv gets an environment
# of its own (.venv-3.13) and leaves .venv as it is.
ifneq ($(origin PYTHON),file)
VERSION := import sys; print("%d.%d" % sys.version_info[:2])
GIVEN := $(shell $(PYTHON) -c '$(VERSION)' 2>/dev/null)
HELD := $(shell .venv/bin/python -c '$(VERSION)' 2>/dev/null)
VENV ?= $(if $(filter-out $(GIVEN),$(HELD)),.venv-$(GIVEN),.venv)
endif
VENV ?= .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
PYTEST := $(RUN) -m pytest -q -n auto --dist worksteal

quickstart: $(STAMP)
	$(VENV)/bin/puma quickstart

# A worker for every core (conftest.py), each with one thread; one that is idle takes tests from the others.
test: $(STAMP) browser
	$(PYTEST)

# For the inner loop: without doctests and the files that start processes, a browser or training runs (tests/conftest.py).
test-fast: $(STAMP)
	$(PYTEST) -m "not slow and not network and not gpu and not heavy" tests

# The extras bring other people's standard tests for our adapters, a second counter of our figures, and Ray.
test-all: $(STAMP) browser
	$(PIP) install -q -c constraints.txt -e ".[dev,crosscheck,integrations,servers,deploy,ray]"
	$(PYTEST) -m ""

lint: $(STAMP)
	$(VENV)/bin/ruff check src tests benchmarks
	$(VENV)/bin/ruff format --check src tests benchmarks
	$(VENV)/bin/mypy

format: $(STAMP)
	$(VENV)/bin/ruff check --fix src tests benchmarks
	$(VENV)/bin/ruff format src tests benchmarks

setup: $(STAMP)

# The web page is tested in a real Chromium. Only root on Debian (a container, CI) installs it here; elsewhere, without
# one, those tests are skipped and say so.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing Chromium for the page's tests"; \
		{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium; } >/dev/null 2>&1 || \
		echo "Chromium could not be installed: the page's tests will be skipped"; \
	else echo "no Chromium here (Debian: apt install chromium): the page's tests will be skipped"; fi

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "PUMA needs Python 3.11 or newer: try  make $(MAKECMDGOALS) PYTHON=python3.13")'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist runs
