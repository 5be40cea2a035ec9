# Each target makes what it needs: a virtual environment in .venv with the versions of constraints.txt. Needs python3 of 3.11 or later.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo models test test-robust test-slow lint bench bench-quick clean

demo: $(READY)
	$(BIN)/sahlora demo --output demo

# HEADS=FOLDER of label maps; hours, into build/models; goes on where it was stopped.
models: export HEADS := $(HEADS)
models: export CLEAN := $(CLEAN)
models: export BASE := $(BASE)
models: $(READY)
	SAHLORA=$(abspath $(BIN))/sahlora sh Resources/Study/make_models.sh

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-robust: $(READY)
	$(BIN)/python -m pytest Testing/Robust -m "robust or not slow" --outcomes Testing/Robust/OUTCOMES.md
	$(BIN)/python Testing/Robust/fuzz.py --minutes 1

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

bench bench-quick: $(READY)
	$(BIN)/python -m pip install --quiet --no-deps -r Testing/Benchmarks/peers.txt
	$(BIN)/python Testing/Benchmarks/bench.py $(if $(findstring quick,$@),--quick)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "SAHLoRA needs Python 3.11 or later; $(PYTHON) is older. Say which one to take: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu install python3-venv." >&2; exit 1; }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,lint]'
	@touch $(READY)

clean:
	rm -rf .venv demo
