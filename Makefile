# `make demo` and `make test` set up what they need first. They need Python 3.11 or newer, git and make.

.PHONY: demo test soak gpu check bench clean install

PYTHON ?= $(shell for candidate in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then command -v $$candidate; break; fi; done)
BIN := .venv/bin
# Two processes, each with whole files, so that what a file sets up is set up once.
SPREAD := -n 2 --dist loadfile
CORE := .venv/installed-core
INSTALLED := .venv/installed-all
# Tests start many processes; each would compile every module that it imports if none were written.
export PYTHONDONTWRITEBYTECODE :=

demo: $(CORE)
	$(BIN)/worldline demo

test: $(INSTALLED)
	$(BIN)/python -m pytest $(SPREAD)

soak: $(INSTALLED)
	$(BIN)/python -m pytest $(SPREAD) -m "not gpu" --hypothesis-profile soak

gpu: $(INSTALLED)
	$(BIN)/python -m pytest -n 0 -m gpu

check: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/check-size

bench: $(INSTALLED)
	@set -e; for benchmark in $(filter-out benchmarks/common.py benchmarks/data_%.py benchmarks/exam_rates.py benchmarks/exam_seeds.py benchmarks/forecast_peers.py benchmarks/goal_tasks.py benchmarks/greenhouse_logs.py benchmarks/imports.py benchmarks/judge_%.py benchmarks/plan_peer.py benchmarks/plant_logs.py benchmarks/plants.py benchmarks/published.py benchmarks/%_task.py benchmarks/stranger_%.py benchmarks/studio_%.py benchmarks/train_peer.py,$(wildcard benchmarks/*.py)); do echo "== $$benchmark"; $(BIN)/python $$benchmark; done

install: $(INSTALLED)

# --no-compile keeps the environment small: Python compiles only the modules that are imported.
$(CORE): pyproject.toml
	@test -n "$(PYTHON)" || { echo "worldline needs Python 3.11 or newer, and none is on the PATH." \
		"Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments." \
		"On Debian and Ubuntu run: apt-get install python3-venv"; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --no-compile -e .
	@touch $@

$(INSTALLED): $(CORE) exam/pyproject.toml
	$(BIN)/python -m pip install -e '.[tables,video,lerobot,features,language,forecast,track,envs,serve,postgres,mcp,client,play,cluster,dev]' -e exam
	@touch $@

clean:
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find src exam tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
