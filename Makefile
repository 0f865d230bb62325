# make demo   federate four sites on real CT, evaluate, write the report   (ARGS="--quick" is faster)
# make test   every test                                                   (JOBS=1 for no parallelism)
# make faults the fault injections that are too slow for every change: some minutes
# make lint   style, types, import contracts
# make simulation  the same run in Flower's simulation; installs Ray
# make proxy  install nginx, which a coordinator needs, on Debian or Ubuntu (as root)
# make bench  time the CT operators against other libraries: half an hour on an idle machine
# make clean  remove everything that these targets made
PYTHON ?= python3
JOBS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench

.PHONY: demo test faults simulation lint proxy bench clean
.DELETE_ON_ERROR:

# The stamp is the last thing to be written, so a failed or interrupted installation is repeated.
$(STAMP): pyproject.toml constraints.txt
	rm -f $@
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/fedm2ct demo $(ARGS)

# One thread a worker: the tests share few cores, and sums are then in one order everywhere.
test: $(STAMP)
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 FLWR_TELEMETRY_ENABLED=0 \
		$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

faults: $(STAMP)
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 FLWR_TELEMETRY_ENABLED=0 \
		$(BIN)/python -m pytest -m faults $(ARGS)

simulation: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev,simulation]'
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 FLWR_TELEMETRY_ENABLED=0 \
		$(BIN)/python -m pytest -m simulation $(ARGS)

# The service that Debian's package starts by itself is not wanted: ours runs as an ordinary user.
proxy:
	@if PATH="$$PATH:/usr/sbin" command -v nginx > /dev/null; then \
		true; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		apt-get update && apt-get install --yes --no-install-recommends nginx-light; \
	else \
		echo "nginx is missing: the proxy is not tested (sudo apt-get install nginx-light)"; \
	fi

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The libraries to compare with come on top: nothing that the project needs is changed by them.
$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	touch $@

bench: $(BENCH_STAMP)
	$(BIN)/python benchmarks/operators.py $(ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf src/*.egg-info
