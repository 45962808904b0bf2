# make run    install what is needed into .venv and run the experiment (ARGS="--epochs 50" passes flags on)
# make test   the same, plus the development tools, and run the tests (ARGS="-k path" passes flags on)
# make lint   check style and formatting
PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint clean

run: $(VENV)/.run
	$(BIN)/python main.py $(ARGS)

# A process either simulates CUDA or not, so there are two runs; 5 is pytest's word for no test that ARGS allow.
test: $(VENV)/.test
	$(BIN)/python -m pytest $(ARGS)
	NUMBA_ENABLE_CUDASIM=1 $(BIN)/python -m pytest tests/test_cuda_simulated.py $(ARGS) || [ $$? -eq 5 ]

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -r requirements.txt
	touch $@

$(VENV)/.test: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install -q -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV)
