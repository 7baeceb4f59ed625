# make demo | make test | make lint: each sets up what it needs first. Quick tests alone: pytest -m "not slow"
PYTHON ?= python3
VENV   ?= .venv
DATA   ?=
RUN    ?=
BIN    := $(VENV)/bin

# A variable that some machines set keeps Python from storing what it compiles. Every one of the many processes that
# the tests start would then compile all of PyTorch's Python anew, for seconds.
export PYTHONDONTWRITEBYTECODE =

.PHONY: venv demo test lint clean

venv: $(VENV)/.installed

# torch first and by its exact version: left to resolve it, pip takes the newest build with gigabytes of CUDA.
# Python compiles what it imports; compiling all 20,000 installed files takes longer than the rest of the installation.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lavq needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: venv
	$(BIN)/lavq demo $(if $(DATA),--data '$(DATA)') $(if $(RUN),--out '$(RUN)')

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 30 --durations-min 5

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
