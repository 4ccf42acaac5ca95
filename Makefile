# The two commands are `make train` and `make infer`; both create .venv when it is missing.

PYTHON ?= python3
PIP_FLAGS ?=
EXPERIMENT ?= mini-en-ru
OVERRIDES ?=
MODEL ?=
DATA ?=
NAME ?=
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS)

.DEFAULT_GOAL := help
.PHONY: help install train teacher infer report demo test lint bench notebooks docs clean

# An asterisk or a bracket in OVERRIDES, DATA and ARGS is the user's, not the shell's: `set -f`.
# `exec` leaves the program alone with Ctrl-C and gives make its exit code.
RUN = @set -f; exec $(BIN)

# What .venv is made of; one line and no more where it will not do.
define CHECK
{ command -v '$(PYTHON)' >/dev/null 2>&1 || { \
    echo 'error: $(PYTHON) not found: name a Python 3.11 or newer, as in make PYTHON=python3.12' >&2; false; }; } && \
{ '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
    echo "error: $(PYTHON) is $$('$(PYTHON)' -V 2>&1): 3.11 or newer is needed, as in make PYTHON=python3.12" >&2; false; }; } && \
{ '$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
    echo 'error: $(PYTHON) has no venv module: on Debian and Ubuntu, apt install python3-venv' >&2; false; }; }
endef

help: ## list the targets
	@$(CHECK) || true
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "make %-11s%s\n", $$1, $$2 }'

install: $(INSTALLED) ## create .venv and install the pinned requirements; PIP_FLAGS= reaches pip
	@echo "installed in .venv; run $(BIN)/secateur --help"

train: $(INSTALLED) ## run experiments/EXPERIMENT.yaml (mini-en-ru); OVERRIDES="key=value ..."; ARGS=--resume
	$(RUN)/secateur train experiments/$(EXPERIMENT).yaml $(OVERRIDES) $(ARGS)

teacher: $(INSTALLED) ## make the teacher anew, as models/teacher-mini-en-ru-anew, hours on 2 cores; OVERRIDES="corpus.files=[FILE]"; ARGS=--resume
	@$(PIP) --no-build-isolation --editable '.[teacher]'
	$(RUN)/secateur train experiments/teacher-mini-en-ru.yaml name=teacher-mini-en-ru-anew $(OVERRIDES) $(ARGS)

infer: $(INSTALLED) ## score MODEL=models/NAME (the last run's) on encodechka; DATA=FOLDER where its files are
	$(RUN)/secateur infer $(MODEL) $(if $(DATA),--data '$(DATA)') $(ARGS)

report: $(INSTALLED) ## the page of NAME="RUN [RUN...]" (mini-en-ru): experiments/RUN/report.html
	$(RUN)/secateur report $(or $(NAME),$(EXPERIMENT)) $(ARGS)

demo: $(INSTALLED) ## a local page: teacher and student (the last run's, or MODEL=) side by side; ARGS="--port N"
	@$(PIP) --no-build-isolation --editable '.[demo]'
	$(RUN)/secateur demo $(if $(MODEL),--student '$(MODEL)') $(ARGS)

test: $(INSTALLED) ## run the tests; ARGS= reaches pytest
	$(RUN)/python -m pytest $(ARGS)

lint: $(INSTALLED) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(INSTALLED) ## time every claim beside its peer, into bench.json; ARGS="--rows encode int8"
	$(RUN)/python -m secateur.bench $(ARGS)

notebooks: $(INSTALLED) ## execute the notebooks in place
	$(RUN)/jupyter execute --inplace $(wildcard notebooks/*.ipynb) $(ARGS)

docs: $(INSTALLED) ## write the generated parts of docs/ anew, then build the site into site/, strict
	@$(BIN)/python docs/generate.py
	$(RUN)/mkdocs build --strict $(ARGS)

clean: ## remove .venv and the caches; runs and models stay
	rm -rf .venv build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an installation that failed leaves none and is tried again.
$(INSTALLED): requirements.txt pyproject.toml
	@rm -f $@
	@$(CHECK)
	@echo 'Installing into .venv, 2 to 10 minutes: 0.4 GB with the CPU build of torch, 3 GB with the CUDA build that'
	@echo 'pip takes on Linux by default. README.md says how to choose; PIP_FLAGS=-v shows what pip does.'
	@'$(PYTHON)' -m venv .venv
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
