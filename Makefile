# Two commands on a fresh machine: `make repro` and `make test`. Needs Python >= 3.11, git and make; no GPU.

PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python
SYNCED := .venv/.synced
EXTRAS := demo dvc export http report s3 tensorboard  # what the tests and the graph need

.PHONY: setup repro test quick check bench campaign lock clean

setup: $(SYNCED)  ## the environment alone, in .venv

repro: $(SYNCED)  ## the whole graph on the embedded default; outside git too
	@test -e .git || $(BIN)/dvc config -q --local core.no_scm true
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

test: $(SYNCED)  ## every test
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations=10 --durations-min=5

quick: $(SYNCED)  ## without the files that tests/slow.txt names: about a minute
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m 'not slow'

check: $(SYNCED)  ## what CI runs besides the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(SYNCED)  ## ours against the peers, interleaved; prints ratios
	$(RUN) -m benchmarks

campaign: $(SYNCED)  ## the fault campaign at full counts
	$(RUN) -m tests.campaign

lock:  ## pin what pyproject.toml asks for
	$(RUN) -m uv pip compile -q pyproject.toml $(EXTRAS:%=--extra %) --group dev --universal --generate-hashes \
		--no-emit-index-url --no-annotate --no-header -o requirements.lock

# uv is used where it is on the PATH and put into .venv where it is not.
$(SYNCED): requirements.lock
	if command -v uv >/dev/null 2>&1; then \
		test -x $(RUN) || uv venv -q --seed --python $(PYTHON) .venv; \
		uv pip install -q --compile-bytecode --python $(RUN) --require-hashes -r requirements.lock; \
	else \
		test -x $(RUN) || $(PYTHON) -m venv .venv; \
		$(RUN) -m uv --version >/dev/null 2>&1 || $(RUN) -m pip install -q uv; \
		$(RUN) -m uv pip install -q --compile-bytecode --python $(RUN) --require-hashes -r requirements.lock; \
	fi
	touch $@

clean:  ## caches of tools; what took long (data, cache, stores, runs, reports, export) is removed by hand alone
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@for folder in data cache stores runs reports export; do \
		test ! -e $$folder || echo "$$folder stays ($$(du -sh $$folder | cut -f1)); remove it yourself: rm -r $$folder"; \
	done
