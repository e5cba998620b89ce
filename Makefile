# Everything runs in .venv, made on first use from pyproject.toml and the pins in constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
MODEL ?= demo
# A part of the tests cannot cover 95 % of everything.
COVERAGE := $(if $(strip $(ARGS)),,--cov --cov-report term:skip-covered --cov-fail-under 95)

.PHONY: serve test check format bench docs web web-check image-check clean

serve: .venv/run.stamp
	@exec $(BIN)/mosso serve $(MODEL) $(ARGS)

test: .venv/dev.stamp
	$(BIN)/pytest -n 3 --dist loadfile $(COVERAGE) $(ARGS)

check: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/run.stamp
	$(BIN)/mosso bench engine $(MODEL) $(ARGS)

# The documents as a site, in build/site.
docs: .venv/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The playground: its sources lie in web/, what is built of them in the package.
web: web/node_modules/.package-lock.json
	npm --prefix web run build

# Whether the package holds what the sources build.
web-check: web/node_modules/.package-lock.json
	npm --prefix web test
	npm --prefix web run build
	@test -z "$$(git status --porcelain src/mosso/server/static)" || \
	  { git status --short src/mosso/server/static; echo "the playground's files are not what web/ builds: make web"; exit 1; }

# The Dockerfile built without a Docker engine, and served from. As root; needs debootstrap, buildah and uidmap.
image-check: .venv/dev.stamp
	$(BIN)/pytest -m image tests/deploy

web/node_modules/.package-lock.json: web/package.json web/package-lock.json
	npm --prefix web ci

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage*

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mosso needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

# The stamps say what .venv holds; a change of the pins or of pyproject.toml brings it up to date.
.venv/run.stamp: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv; this takes a minute or two, once"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/dev.stamp: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing the development tools into .venv; this takes some minutes, once"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ .venv/run.stamp
