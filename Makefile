# make demo   set up, then ingest a sample pool and select coresets from it
# make test   set up, then lint, type-check and run the tests
# make docs   set up, then build the documentation as a site in build/site
# make pictures [POOL=STORE]  take the documentation's pictures again, in Chromium: from the demo's
#             pool, and with POOL one of that pool
# make notebook  run the documentation's notebook again in the demo's pool, and keep what it shows
# make evidence CORPORA=FOLDER OUT=FOLDER MODEL=FOLDER  the study of docs/evidence.md (hours)
# make torture                kill, damage, fill and crowd a store (docs/reliability.md; many minutes)
# make clean  remove what make made

VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash -o pipefail
# Tests and the demo start many processes: each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE
# Most of what is installed is never imported: what is gets compiled then.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt
# On a terminal pip shows its bars; elsewhere a line for each large package is enough.
SHOWN := $(if $(MAKE_TERMOUT),,| sed -u -n -E \
	-e 's/^ *(Downloading|Using cached) (.*\/)?([^ ]+) \(([0-9.]+ [MG]B)\).*/    \1 \3, \4/p' \
	-e 's/^Installing collected packages: .*/    unpacking and installing, a minute or more/p')

# $(call installed,what is installed,pip's arguments): say it, do it, say how long it took.
define installed
@echo "Installing $(1) into $(VENV)"
@began=$$SECONDS; $(PIP) $(2) $(SHOWN) && echo "    done in $$((SECONDS - began)) s"
@touch $@
endef

TORCH := $(shell grep '^torch==' constraints.txt)
COMMA := ,

# Tests of clusters and object stores: they wait for servers, so they run beside the others.
WITH_SERVERS := $(addprefix tests/,cli/test_s3_session.py ingest/readers/test_object_store.py \
	store/sql/test_sql_s3.py store/test_faulty_s3.py store/test_run_locks.py store/test_s3.py \
	workers/test_ray.py workers/test_ray_nodes.py)

.PHONY: demo test pytest pytest-servers check bench docs pictures notebook evidence torture clean

demo: $(VENV)/.installed
	@$(BIN)/coresetdb demo

# The type-checker keeps one core busy for most of a minute: the tests begin beside it.
test: $(VENV)/.installed-dev
	@$(MAKE) --no-print-directory --jobs 3 --keep-going check pytest pytest-servers

pytest: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder \
		$(WITH_SERVERS:%=--ignore=%) tests

pytest-servers: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(WITH_SERVERS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# Those that make their own data; the others take files or a store.
BENCHMARKS = approximate coverage one_pass selection spread sql

bench: $(VENV)/.installed
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done

docs: $(VENV)/.installed-docs
	$(BIN)/python docs/build_site.py

pictures: $(VENV)/.installed-dev demo
	$(BIN)/python docs/take_pictures.py coresetdb-demo/pool math $(if $(POOL),--pool $(POOL))

notebook: $(VENV)/.installed-dev demo
	$(BIN)/python docs/run_notebook.py

torture: $(VENV)/.installed
	$(BIN)/python benchmarks/torture build/torture $(OPTIONS)

evidence: $(VENV)/.installed-evaluate
	$(BIN)/python benchmarks/evidence.py $(CORPORA) $(OUT) --model $(MODEL) $(OPTIONS)

# torch comes first and by its pinned version, so that no other package's looser demand picks one;
# before it a pip that finds and unpacks packages in half the time of those that come with Python.
$(VENV)/.torch: constraints.txt
	@python3 -m venv $(VENV)
	@$(PIP) --quiet --upgrade pip
	$(call installed,$(TORCH)$(COMMA) the largest part (step 1 of 2),$(TORCH))

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(call installed,coresetdb and the packages it needs (step 2 of 2),-e .)

# All at once, with what .installed stands for: pip would look for every package a second time.
$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(call installed,coresetdb$(COMMA) what it needs and what its tests need (step 2 of 2),-e '.[dev]')
	@touch $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/.installed
	$(call installed,what the documentation needs,-e '.[docs]')

$(VENV)/.installed-evaluate: $(VENV)/.installed
	$(call installed,what evaluations need,-e '.[evaluate]')

clean:
	rm -rf $(VENV) build dist *.egg-info coresetdb-demo
