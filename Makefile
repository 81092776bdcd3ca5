# Set-up, checks and the demonstration. Each target makes the virtual environment it needs.
# From a fresh clone: `make demo`, `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ASAN_VENV := .venv-asan
ASAN_READY := $(ASAN_VENV)/.ready
# Most tests wait for processes rather than for a CPU.
AT_ONCE ?= $(shell echo $$(( $$(nproc) + 1 )))
PYTEST := -m pytest -n $(AT_ONCE) --dist worksteal
SOURCES := setup.py pyproject.toml $(wildcard csrc/*) \
	$(shell find tcpmux -name '*.pyx' -o -name '*.pxd')

export TCPMUX_WERROR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help build demo test prove bench bench-peers bench-behaviour lint fmt asan clean

help:
	@echo "make demo    show traffic being shifted between two embedded servers"
	@echo "make test    lint, types and all tests"
	@echo "make prove   kill, stop, replace and reload under load; nothing may be lost"
	@echo "make bench   CPU, latency and memory against nginx, haproxy, envoy and traefik, if installed"
	@echo "make bench-peers      install them, and what draws charts"
	@echo "make bench-behaviour  how soon weights work, balance, tail, cost of waiting, growth"
	@echo "make lint    ruff and mypy          make fmt    format"
	@echo "make asan    the tests with every C module under the sanitizers"
	@echo "make build   the virtual environment and the extension modules"

$(READY): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'setuptools>=77' 'cython>=3.1,<4'
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[dev]'
	@touch $@

build: $(READY)

demo: $(READY)
	$(BIN)/tcpmux demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python $(PYTEST)

prove: $(READY)
	$(BIN)/python -m tests.stress

bench: $(READY)
	$(BIN)/python -m bench

bench-behaviour: $(READY)
	$(BIN)/python -m bench.behaviour

bench-peers: $(READY)
	.ci/debian-packages haproxy nginx libnginx-mod-stream
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[bench]'

# A second environment, so that instrumented modules never end up in the first one.
$(ASAN_READY): $(SOURCES)
	test -x $(ASAN_VENV)/bin/python || $(PYTHON) -m venv $(ASAN_VENV)
	$(ASAN_VENV)/bin/python -m pip install --quiet 'setuptools>=77' 'cython>=3.1,<4'
	rm -rf build/asan && mkdir -p build/asan
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -P -t build/asan
	cd build/asan && TCPMUX_BUILD=asan ../../$(ASAN_VENV)/bin/python -m pip install --quiet \
		--no-build-isolation --editable '.[dev]'
	@touch $@

# Python itself leaks by design at exit; leaks in C are watched by tests/c.
asan: $(ASAN_READY)
	cd build/asan && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		../../$(ASAN_VENV)/bin/python $(PYTEST) tests/relay tests/integration

clean:
	rm -rf build dist *.egg-info $(VENV) $(ASAN_VENV)
	find tcpmux -name '*.so' -delete
