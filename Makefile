# Every target makes the environment it needs by itself; see scripts/environment.sh for VENV, PYTHON and PIP_*.
VENV ?= $(or $(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
TESTS ?=
JOBS ?= 2
SEED ?= 1
MINUTES ?= 30
BENCHES ?=
ONLY ?=
SECONDS ?= 300
export VENV

.DEFAULT_GOAL := help
.PHONY: help demo test lint format fuzz audit docs bench chaos slurm-lab recording pictures man clean environment

help:  ## these lines
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | awk -F '\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'

demo: environment  ## simulate a recording, train a small LFADS/BAND sweep here, show a table and a figure
	@scripts/demo.sh

test: environment  ## the whole test suite; TESTS=tests/data for a part of it, JOBS=2 at once
	@scripts/slurm_packages.sh --install || true
	@scripts/browser_packages.sh --install >/dev/null || true
	@scripts/ssh_packages.sh --install || true
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadscope $(TESTS)

lint: environment  ## style, types and formatting; changes nothing
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy

format: environment  ## put the code into the form that lint asks for
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

fuzz: environment  ## feed every reader of files with what breaks readers; SECONDS=300, counts in build/fuzz/results.json
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet atheris==3.0.0 \
		|| echo "atheris cannot be installed here: hypothesis alone"
	@nice -n 19 $(BIN)/python -m fuzz --seconds $(SECONDS)

audit: environment  ## look the dependencies up among known vulnerabilities; needs PyPI, or with AUDIT=osv osv.dev
	@scripts/audit.sh

docs: environment  ## the pages of docs/ as a site, in site/index.html; opens from disk
	@$(BIN)/python -m mkdocs build --strict
	@echo "built: site/index.html"

bench: environment  ## time and memory of a training step beside a plain implementation
	@$(BIN)/python -m benchmarks

chaos: environment  ## faults of all kinds, for MINUTES=30 by SEED=1; a line each in chaos.jsonl, a table at the end
	@PYTHONPATH=tests:tests/helpers $(BIN)/python -m reliability --seed $(SEED) --minutes $(MINUTES) $(BENCHES) $(if $(ONLY),--only $(ONLY))

slurm-lab: environment  ## a shell on a Slurm cluster of two nodes that lives as long as the shell
	@scripts/slurm_packages.sh --install
	@scripts/ssh_packages.sh --install || true
	@PYTHONPATH=tests $(BIN)/python -m slurm_lab

recording: environment  ## record what README shows anew: a lab, an sshd, a sweep; needs root and some minutes
	@scripts/slurm_packages.sh --install
	@scripts/ssh_packages.sh --install
	@PYTHONPATH=tests:tests/helpers:scripts $(BIN)/python scripts/record.py tour docs/img
	@$(MAKE) --no-print-directory pictures

pictures: environment  ## draw docs/img/*.svg from the recordings of terminals beside them
	@$(BIN)/python scripts/terminal_picture.py docs/img/recording.cast docs/img/recording.svg --speed 3
	@$(BIN)/python scripts/terminal_picture.py docs/img/watch.cast docs/img/watch.svg --still
	@$(BIN)/python scripts/terminal_picture.py docs/img/curves.cast docs/img/curves.svg --still

man: environment  ## manual pages of every command, where `man` finds them once the environment is active
	@$(BIN)/python -m band.cli.man_pages $(VENV)/share/man

clean:  ## remove .venv, caches and what the demo made; other recordings and sweeps stay
	@rm -rf .venv build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@rm -rf datasets/demo_reach.h5 experiments/sweeps/demo experiments/sweeps/demo.train
	@find band tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

environment:  ## the environment alone: .venv, with the project and its tools in it
	@scripts/environment.sh
