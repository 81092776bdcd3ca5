# Set-up, checks and the demonstration. Each target makes the virtual environment it needs.
# From a fresh clone: `make demo`, `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCK := requirements.lock
LOCKED := $(VENV)/.locked
# Of that, what the package needs to be compiled and to run.
BUILD_LOCK := build.lock
BUILD_LOCKED := $(VENV)/.build-locked
DOCS_VENV := .venv-docs
DOCS_LOCK := docs.lock
DOCS_LOCKED := $(DOCS_VENV)/.locked
PEERS_VENV := .venv-peers
PEERS_LOCK := peers.lock
PEERS_LOCKED := $(PEERS_VENV)/.locked
ASAN_VENV := .venv-asan
ASAN_LOCKED := $(ASAN_VENV)/.locked
ASAN_READY := $(ASAN_VENV)/.ready
# Some tests wait for time to pass: two more than CPUs, and none idles.
AT_ONCE ?= $(shell echo $$(( $$(nproc) + 2 )))
PYTEST := -m pytest -n $(AT_ONCE) --dist worksteal
C_SOURCES := $(sort $(shell find csrc -name '*.[ch]'))
# As setup.py compiles them, and with what code that Cython generates could not be compiled with.
C_FLAGS := -std=gnu11 -D_GNU_SOURCE -Icsrc -Wall -Wextra -Wconversion \
	-Wshadow -Wswitch-enum -Werror $(if $(filter x86_64,$(shell uname -m)),-mcx16)
SOURCES := setup.py pyproject.toml tcpmux/config/rows.py tcpmux/config/settings.py \
	tcpmux/config/proxy_header.py tcpmux/config/sticky.py \
	tcpmux/worker/messages.py \
	$(filter-out csrc/rules.def csrc/balances.def csrc/messages.def,$(shell find csrc -type f)) \
	$(shell find tcpmux -name '*.pyx' -o -name '*.pxd')

export TCPMUX_WERROR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start hundreds of programs: each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

# Two targets install into one environment, and READY compiles on all CPUs by itself.
.NOTPARALLEL:

.PHONY: help build demo test prove bench bench-peers bench-behaviour lint analyze tables fmt generated docs screenshots asan fuzz fuzz-parsers lock wheel wheel-test image image-test deb deb-test systemd-test clean

help:
	@echo "make demo    show traffic being shifted between two embedded servers"
	@echo "make test    lint, types and all tests"
	@echo "make prove   kill, stop, replace and reload under load; nothing may be lost"
	@echo "make bench   CPU, latency and memory against nginx, haproxy, envoy and traefik, if installed"
	@echo "make bench-peers      install them, and what draws charts"
	@echo "make bench-behaviour  how soon weights work, balance, tail, cost of waiting, growth"
	@echo "make lint    ruff, mypy, the compiler's warnings about csrc/"
	@echo "make analyze gcc's analyzer and clang-tidy over csrc/"
	@echo "make fmt     format"
	@echo "make docs    the documentation as a site, in build/site; compiles nothing"
	@echo "make generated  what follows from tables and commands, and is in git"
	@echo "make screenshots  the pictures in docs/, from a scene of 12 minutes; needs Chromium"
	@echo "make asan    the tests with every C module under the sanitizers"
	@echo "make fuzz    corrupt words of shared memory under the sanitizers; FUZZ_SECONDS=60 each test"
	@echo "make fuzz-parsers  libFuzzer over the parsers of what clients send; FUZZ_SECONDS=60 each"
	@echo "make build   the virtual environment and the extension modules"
	@echo "make wheel   dist/*.whl, the same to the byte for the same commit"
	@echo "make wheel-test  installs it in a fresh environment, timed, and runs it; RUNS=5 times"
	@echo "make image   the container image of Containerfile, with podman, docker or buildah"
	@echo "make image-test  the same from Debian's packages, without a registry, and its tests; for root"
	@echo "make deb     dist/*.deb: a Debian package, with what it depends on, for this Python"
	@echo "make deb-test    install, upgrade, remove it in a Debian 12 of its own; for root"
	@echo "make systemd-test  the service under a systemd of its own: restarts, deaths, watchdog; for root"
	@echo "make lock    $(LOCK), $(DOCS_LOCK) and $(PEERS_LOCK) anew, after a change of dependencies; UPGRADE=--upgrade for the newest"

# $(call install-locked,PYTHON,LOCK,HOW MUCH): what the lock names and nothing else, by its hashes. No
# source distributions, which would run build tools that no hash is known of.
comma := ,
define install-locked
echo "make: installing what $(2) names, checked by its hashes: $(3)"; \
$(1) -m pip install --quiet --no-compile --require-hashes --only-binary :all: --requirement $(2) || { \
	echo "make: could not install what $(2) names; pip says above what is missing, or does not match." >&2; \
	echo "make: without a network, wheels in a folder will do: PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER make $(MAKECMDGOALS)" >&2; \
	exit 1; }
endef

# $(call to-bytecode,PYTHON): all that is installed, on all CPUs; pip does it on one.
define to-bytecode
$(1) -m compileall -qq -j 0 "$$($(1) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true
endef

define make-venv
test -x $(1)/bin/python || { echo "make: making the virtual environment $(1)"; $(PYTHON) -m venv $(1); }
endef

# A first `make demo` needs no more than that, and bytecode of no more than is imported.
$(BUILD_LOCKED): $(BUILD_LOCK)
	@$(call make-venv,$(VENV))
	@$(call install-locked,$(BIN)/python,$(BUILD_LOCK),about 20 MB$(comma) ten seconds)
	@touch $@

# What is in BUILD_LOCK is in it as well. Where that was there, it stays as old as it is: a newer one
# has the modules compiled again.
$(LOCKED): $(LOCK)
	@$(call make-venv,$(VENV))
	@$(call install-locked,$(BIN)/python,$(LOCK),about 100 MB$(comma) half a minute)
	@$(call to-bytecode,$(BIN)/python)
	@test -e $(BUILD_LOCKED) || touch $(BUILD_LOCKED)
	@touch $@

$(READY): $(BUILD_LOCKED) $(SOURCES)
	@echo "make: compiling the extension modules on all CPUs: less than a minute"
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

build: $(READY)

demo: $(READY)
	$(BIN)/tcpmux demo

lint: $(LOCKED) $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "$(BIN)/mypy; $(CC) -fsyntax-only $(C_FLAGS)"
	@$(BIN)/mypy & types=$$!; \
		$(call each-of-csrc,$(CC) -fsyntax-only $(C_FLAGS) -x c -include {} /dev/null); \
		checked=$$?; wait $$types && exit $$checked

# Each header is a file of its own as well: what it defines is checked though no .c includes it.
# Says nothing of those that pass: clang counts warnings about the C library's headers.
each-of-csrc = printf '%s\n' $(C_SOURCES) | xargs -P $$(nproc) -I {} \
	sh -c 'said=$$($(1) 2>&1) || { echo "$$said"; exit 1; }'

# Two headers are made by the build, and needed before it.
tables:
	@$(PYTHON) csrc/tables.py

# What is not installed is not run, and said: both are the continuous integration's.
analyze: tables
	@if gcc --version >/dev/null 2>&1; then \
		echo "gcc -fanalyzer over csrc/"; \
		$(call each-of-csrc,gcc -O1 -fkeep-inline-functions $(C_FLAGS) -fanalyzer -S -o /dev/null -x c -include {} /dev/null); \
	else echo "make analyze: no gcc, so no -fanalyzer" >&2; fi
	@if clang-tidy --version >/dev/null 2>&1; then \
		echo "clang-tidy over csrc/"; \
		$(call each-of-csrc,clang-tidy --quiet {} -- -x c $(filter-out -W%,$(C_FLAGS))); \
	else echo "make analyze: no clang-tidy, so not run" >&2; fi

fmt: $(LOCKED) $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generated: $(LOCKED) $(READY)
	$(BIN)/python configs/packaging/man_page.py
	$(BIN)/python configs/packaging/completions.py
	TCPMUX_WRITE_DOCS=1 $(BIN)/python -m pytest -q -n 0 tests/unit/test_settings.py \
		tests/unit/test_error_page.py tests/docs/test_generated.py

# An environment of its own: what builds the site has no place among what tests the program.
$(DOCS_LOCKED): $(DOCS_LOCK)
	@$(call make-venv,$(DOCS_VENV))
	@$(call install-locked,$(DOCS_VENV)/bin/python,$(DOCS_LOCK),about 40 MB$(comma) ten seconds)
	@$(call to-bytecode,$(DOCS_VENV)/bin/python)
	@touch $@

# The pages that are generated are in git: `make generated` writes them anew.
# Programs whose files `tcpmux convert` reads, for tests beside them.
$(PEERS_LOCKED): $(PEERS_LOCK)
	@$(call make-venv,$(PEERS_VENV))
	@$(call install-locked,$(PEERS_VENV)/bin/python,$(PEERS_LOCK),about 90 MB$(comma) ten seconds)
	@$(call to-bytecode,$(PEERS_VENV)/bin/python)
	@touch $@

docs: $(DOCS_LOCKED)
	@echo "make: building the site from docs/, in build/site"
	@$(DOCS_VENV)/bin/zensical build --clean --strict
	@echo "to read it: $(PYTHON) -m http.server --directory build/site 8000"

screenshots: $(LOCKED) $(READY)
	$(BIN)/python -m tests.docs.screenshots

# While mypy runs on one CPU, pytest compiles the tests: else each process that runs tests does.
test: $(LOCKED) $(READY)
	@$(BIN)/python -m pytest --collect-only -qq -n 0 >/dev/null & $(MAKE) --no-print-directory lint
	$(BIN)/python $(PYTEST)

prove: $(LOCKED) $(READY)
	$(BIN)/python -m tests.stress

bench: $(LOCKED) $(READY)
	$(BIN)/python -m bench

bench-behaviour: $(LOCKED) $(READY)
	$(BIN)/python -m bench.behaviour

bench-peers: $(LOCKED) $(READY)
	.ci/debian-packages haproxy nginx libnginx-mod-stream
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[bench]'

# A second environment, so that instrumented modules never end up in the first one.
$(ASAN_LOCKED): $(LOCK)
	@$(call make-venv,$(ASAN_VENV))
	@$(call install-locked,$(ASAN_VENV)/bin/python,$(LOCK),about 100 MB$(comma) half a minute)
	@$(call to-bytecode,$(ASAN_VENV)/bin/python)
	@touch $@

$(ASAN_READY): $(ASAN_LOCKED) $(SOURCES)
	@echo "make: compiling the extension modules with sanitizers: about a minute"
	rm -rf build/asan && mkdir -p build/asan
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -P -t build/asan
	cd build/asan && TCPMUX_BUILD=asan ../../$(ASAN_VENV)/bin/python -m pip install --quiet \
		--no-deps --no-build-isolation --editable .
	@touch $@

# Python itself leaks by design at exit; leaks in C are watched by tests/c.
INSTRUMENTED := cd build/asan && \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

asan: $(ASAN_READY)
	$(INSTRUMENTED) ../../$(ASAN_VENV)/bin/python $(PYTEST) tests/relay tests/integration

FUZZ_SECONDS ?= 60

fuzz: $(ASAN_READY)
	$(INSTRUMENTED) TCPMUX_FUZZ_SECONDS=$(FUZZ_SECONDS) ../../$(ASAN_VENV)/bin/python \
		$(PYTEST) --timeout $$(( 4 * $(FUZZ_SECONDS) + 120 )) \
		tests/relay/test_corrupt.py tests/unit/test_corrupt_readers.py

# Parsers of what clients send, by libFuzzer: each runs for FUZZ_SECONDS, from the inputs in git on.
# What it finds on its way stays in build/fuzz; to continue from there is what a longer run is for.
FUZZ_CC ?= $(firstword $(foreach name,clang $(notdir $(wildcard /usr/bin/clang-[0-9]*)),$(shell command -v $(name))))
FUZZED := client_hello postgres proxy_header talk

fuzz-parsers:
	@test -n "$(FUZZ_CC)" || { echo "make fuzz-parsers: no clang" >&2; exit 1; }
	@mkdir -p build/fuzz
	@for name in $(FUZZED); do \
		sources="csrc/$$name.c csrc/crc32c.c csrc/text.c"; test $$name = talk && sources=csrc/protocol/*.c; \
		mkdir -p build/fuzz/$$name && \
		$(FUZZ_CC) -g -O1 -std=gnu11 -D_GNU_SOURCE -Icsrc -Wall -Werror \
			-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
			-o build/fuzz/fuzz_$$name tests/fuzz/fuzz_$$name.c $$sources && \
		build/fuzz/fuzz_$$name -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=512 -verbosity=0 \
			-print_final_stats=1 -artifact_prefix=build/fuzz/$$name- \
			build/fuzz/$$name tests/fuzz/corpus/$$name || exit 1; \
	done

# From the commit alone: what is in the folder besides, or changed, stays out, and its time is
# the commit's.
wheel: $(LOCKED) $(READY)
	$(BIN)/python configs/packaging/wheel.py

BUILDER ?= $(firstword $(foreach tool,podman docker buildah,$(if $(shell command -v $(tool)),$(tool))))
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' tcpmux/__init__.py)

# IMAGE_FLAGS: for instance --build-arg BASE=...
image:
	@test -n "$(BUILDER)" || { echo "make image: needs podman, docker or buildah" >&2; exit 1; }
	$(BUILDER) build $(if $(filter docker,$(BUILDER)),,--format docker --ignorefile .containerignore) \
		--file Containerfile --tag tcpmux:$(VERSION) $(IMAGE_FLAGS) .

image-test: $(LOCKED) $(READY)
	$(BIN)/python configs/packaging/image.py
	$(BIN)/python -m pytest -n 0 tests/integration/test_image.py

deb: wheel
	$(BIN)/python configs/packaging/deb.py

wheel-test: wheel
	$(BIN)/python configs/packaging/wheel_test.py

# In a network of their own: what a machine of a test listens on is nobody else's.
define test-in-debian
@$(BIN)/python configs/packaging/debian.py; code=$$?; \
	case $$code in 0) ;; 3) exit 0 ;; *) exit $$code ;; esac; \
	unshare --net sh -c 'ip link set lo up; exec $(BIN)/python -m pytest -n 0 $(1)'
endef

deb-test: wheel
	$(call test-in-debian,tests/debian/test_package.py)

systemd-test: wheel
	$(call test-in-debian,tests/debian/test_systemd.py)

# For every Python from the oldest that pyproject.toml allows. Releases that are in the lock and
# still fit stay, without UPGRADE.
lock:
	test -x build/uv/bin/uv || { $(PYTHON) -m venv build/uv && build/uv/bin/python -m pip install --quiet 'uv>=0.9,<1'; }
	build/uv/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes $(UPGRADE) \
		--custom-compile-command 'make lock' --extra dev --output-file $(LOCK) pyproject.toml
	build/uv/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
		--custom-compile-command 'make lock' --extra build --constraint $(LOCK) \
		--output-file $(BUILD_LOCK) pyproject.toml
	sed -n '/^docs = \[/,/^\]/s/^ *"\([^"]*\)".*/\1/p' pyproject.toml >build/docs.in
	build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes $(UPGRADE) \
		--custom-compile-command 'make lock' --output-file $(DOCS_LOCK) build/docs.in
	sed -n '/^peers = \[/,/^\]/s/^ *"\([^"]*\)".*/\1/p' pyproject.toml >build/peers.in
	build/uv/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes $(UPGRADE) \
		--custom-compile-command 'make lock' --output-file $(PEERS_LOCK) build/peers.in

clean:
	rm -rf build dist *.egg-info $(VENV) $(ASAN_VENV) $(DOCS_VENV) $(PEERS_VENV)
	find tcpmux -name '*.so' -delete
