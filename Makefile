# make run          install what is needed into .venv and run the experiment (ARGS="--epochs 50" passes flags on)
# make test         the same, plus the development tools, and run the quick tests (ARGS="-k path" passes flags on)
# make test-all     the same, plus what other tests are skipped without: CUDA's compiler, Dask, the recipes' frameworks;
#                   and run all tests
# make test-lowest  install the loss anew, with the lowest versions that it allows, and run its tests
# make lint         check style and formatting
PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
LOSS_TESTS := tests/loss tests/test_install.py --ignore-glob='*cuda*'

RUN_TESTS := $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: run test test-all test-lowest lint clean

run: $(VENV)/.run
	$(BIN)/python main.py $(ARGS)

test: $(VENV)/.test
	$(RUN_TESTS) -m "not slow" $(ARGS)

test-all: $(VENV)/.all
	$(RUN_TESTS) $(ARGS)

# Another numba must not find its kernels in the cache of this one.
test-lowest:
	rm -rf $(LOWEST) build
	python3.11 -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install . -r requirements-lowest.txt
	cd $(LOWEST) && bin/python -c "import dilate_loss"
	NUMBA_CACHE_DIR=$(CURDIR)/$(LOWEST)/kernels $(LOWEST)/bin/python -m pytest $(LOSS_TESTS) $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(BIN)/python
	@echo "Installing $$(sed 's/ *#.*//' requirements.txt | xargs) into $(VENV), once."
	@echo "On Linux, torch may bring CUDA's libraries along, which are some gigabytes."
	$(BIN)/python -m pip install -r requirements.txt
	touch $@

$(VENV)/.test: requirements-dev.txt experiments/requirements.txt $(VENV)/.run
	$(BIN)/python -m pip install -q -r requirements-dev.txt
	touch $@

$(VENV)/.all: requirements-all.txt requirements-cuda.txt examples/requirements.txt $(VENV)/.test
	$(BIN)/python -m pip install -r requirements-all.txt
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST)
