# Two commands are all a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO := indexes/sample

.PHONY: demo test check clean

demo: $(VENV)/installed
	@rm -rf $(DEMO)
	$(BIN)/m3search index eval/sample/corpus.jsonl --index $(DEMO)
	$(BIN)/m3search query "How do bees make honey?" --index $(DEMO) -k 3
	$(BIN)/m3search query "vaccine history smallpox cowpox" --index $(DEMO) -k 3
	$(BIN)/m3search query "¿Qué astros causan las mareas?" --index $(DEMO) -k 3

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

check: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable ".[test]"
	@touch $(VENV)/installed $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info
