# The entry point. `make` alone lists the targets.
# Empty: the newest that is found of those that pyproject.toml allows.
PYTHON ?=
BIN := .venv/bin
CODE := lesion_tasks archive_server dags plugins tests stack_tests ui_tests benchmarks docker requirements
DEPLOYED := airflow worker-cpu worker-gpu
# One more than there are cores, four at most: a test waits for Postgres, a scheduler or a killed process half of its time.
TEST_PROCESSES ?=
TEST_PROCESSES_HERE := $(BIN)/python -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))'

# make demo ARCHIVE=<folder, address or "isic"> IMAGES=<n> VARIANTS=<a,b> WEIGHTS=<path> PORT=<n> HOME_FOLDER=<path>
# Passed through the environment, so that no shell ever interprets a value.
export LESION_DEMO_ARCHIVE = $(ARCHIVE)
export LESION_DEMO_IMAGES = $(IMAGES)
export LESION_DEMO_VARIANTS = $(VARIANTS)
export LESION_DEMO_WEIGHTS = $(WEIGHTS)
export LESION_DEMO_PORT = $(PORT)
ifdef HOME_FOLDER
export LESION_HOME = $(HOME_FOLDER)
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo stop clean test test-variants test-ui test-stack test-faults lint format migration docs docs-check site env images sbom audit agree \
        locks archive-server
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  make demo takes ARCHIVE=<folder, address or isic> IMAGES=<n> VARIANTS=<a,b> WEIGHTS=<path> PORT=<n> HOME_FOLDER=<path>'

setup: .venv/laptop.stamp ## create the environment in .venv from the lock

demo: .venv/laptop.stamp ## go from nothing to a champion, followed live; run again to continue where it stopped
	@$(BIN)/python -m lesion_tasks.laptop.demo

stop: ## stop everything the demo started, and nothing else
	@test ! -x $(BIN)/python || $(BIN)/python -m lesion_tasks.laptop.demo --stop

clean: ## stop, and remove everything the demo made
	@test ! -x $(BIN)/python || $(BIN)/python -m lesion_tasks.laptop.demo --clean

test: .venv/dev.stamp ## run every test, with a real Postgres and a real scheduler
	$(BIN)/python -m pytest --numprocesses $(or $(TEST_PROCESSES),$$($(TEST_PROCESSES_HERE))) --dist loadfile --no-loadscope-reorder

lint: .venv/dev.stamp ## check rules, format and types
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

format: .venv/dev.stamp ## rewrite the code in the house format
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

migration: .venv/dev.stamp ## write a migration from the difference between models and tables: name="add lesion size"
	@test -n "$(name)" || { echo 'name is missing, such as: make migration name="add lesion size"' >&2; exit 1; }
	$(BIN)/python -m lesion_tasks.database.new_migration "$(name)"

docs: .venv/dev.stamp ## regenerate the generated parts of the documents
	$(BIN)/python -m lesion_tasks docs

site: build/site.stamp ## build the documents as a site, without a warning: build/site/index.html
	@NO_MKDOCS_2_WARNING=1 build/site-env/bin/mkdocs build --quiet && echo build/site/index.html

docs-check: .venv/dev.stamp ## run every documented command that no test runs, or say why it cannot be run
	$(BIN)/python tests/check_documents.py

env: ## write .env with generated secrets, for docker compose
	@$(or $(PYTHON),python3) docker/write_env.py

images: ## build both images, with the commit as version and time
	CODE_VERSION=$$(git rev-parse --short=12 HEAD) SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) docker compose build

test-variants: .venv/dev.stamp ## train and evaluate every variant through a real scheduler (ten minutes)
	$(BIN)/python -m pytest tests/test_every_variant.py --every-variant --capture no

test-ui: .venv/dev.stamp ## the pages in a real browser on a real scheduler (needs Chromium; SHOTS=<folder> keeps pictures)
	$(BIN)/python -m pytest ui_tests --capture no --timeout 1200 $(if $(UI_TESTS),-m "$(UI_TESTS)")

pictures: .venv/dev.stamp ## take the pictures of the documents anew, from the demo that runs under HOME_FOLDER (needs Chromium)
	$(BIN)/python ui_tests/take_pictures.py "$(or $(HOME_FOLDER),var)"

test-stack: .venv/dev.stamp ## start the whole stack in containers and run the path through it (needs a Docker engine)
	$(BIN)/python -m pytest stack_tests/test_stack.py --capture no --timeout 3600

test-faults: .venv/dev.stamp ## kill workers and services while the path runs, repeatedly (needs a Docker engine, an hour)
	$(BIN)/python -m pytest stack_tests/test_faults.py --capture no --timeout 3600

sbom: .venv/dev.stamp ## write the contents of each image as CycloneDX: build/sbom-*.json
	@mkdir -p build
	@for lock in $(DEPLOYED); do $(BIN)/python requirements/image_lock.py requirements/$$lock.lock > build/$$lock.txt && \
	  $(BIN)/cyclonedx-py requirements build/$$lock.txt --pyproject pyproject.toml \
	  --output-reproducible --output-format JSON --output-file build/sbom-$$lock.json || exit 1; \
	  echo "build/sbom-$$lock.json"; done

audit: .venv/dev.stamp ## list known vulnerabilities of everything in the locks
	@$(BIN)/python requirements/audit.py

agree: .venv/dev.stamp ## check the local server with isic-cli, an independent client: ISIC_PYTHON=<python with isic-cli>
	$(BIN)/python -m benchmarks.agree_with_isic_cli --isic-python "$(ISIC_PYTHON)"

locks: ## resolve all dependencies again, into requirements/*.lock (needs uv)
	requirements/compile.sh

bench-%: .venv/dev.stamp ## run one benchmark of benchmarks/, such as make bench-ingest
	$(BIN)/python benchmarks/$*.py

archive-server: .venv/laptop.stamp ## serve a synthetic archive, or a folder: ARCHIVE=<folder> IMAGES=<n>
	$(BIN)/python -m archive_server --port 0 --source "$(or $(ARCHIVE),synthetic:$(or $(IMAGES),1000))"

# The development environment contains everything of the laptop's, so it is enough to have it.
.venv/laptop.stamp: requirements/laptop.lock requirements/uv.lock pyproject.toml
	@if [ .venv/dev.stamp -nt requirements/dev.lock ] && [ .venv/dev.stamp -nt pyproject.toml ]; then :; \
	else requirements/install.sh laptop "$(PYTHON)"; fi
	@touch $@

build/site.stamp: requirements/site.lock
	@rm -rf build/site-env && mkdir -p build && $$(requirements/find_python.sh "$(PYTHON)") -m venv build/site-env
	@build/site-env/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r $<
	@touch $@

.venv/dev.stamp: requirements/dev.lock requirements/uv.lock pyproject.toml
	@requirements/install.sh dev "$(PYTHON)"
	@touch $@ .venv/laptop.stamp
