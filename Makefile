# `make demo` and `make test` need only Python 3.11+, pip and make: they set up .venv by themselves (with uv if present).
PYTHON ?= python3
EXTRAS ?= dev,png
VENV := .venv
BIN := $(VENV)/bin
# One stamp for each set of extras, so that asking for more of them installs more.
comma := ,
READY := $(VENV)/ready-$(subst $(comma),-,$(EXTRAS))

.PHONY: demo test lint tests bench clean

demo: $(READY)
	@mkdir -p out
	$(BIN)/parsim simulate llama3-405b-16k --html out/llama3-405b.html
	@echo "open out/llama3-405b.html"

test: lint tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tests: $(READY)
	$(BIN)/python -m pytest -q

bench: $(READY)
	$(BIN)/python benchmarks/speed/engines.py
	@if $(BIN)/python -c "import torch" 2>/dev/null; then \
	  $(BIN)/python benchmarks/speed/interpreter.py; \
	fi

$(READY): pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --allow-existing --quiet $(VENV) && \
	  uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]'; \
	else \
	  { $(PYTHON) -m venv $(VENV) 2>/dev/null || $(PYTHON) -m venv --without-pip $(VENV); } && \
	  $(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache .hypothesis
