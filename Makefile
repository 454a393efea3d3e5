# make demo   set up, then ingest a sample pool and select coresets from it
# make test   set up, then lint, type-check and run the tests
# make docs   set up, then build the documentation as a site in build/site
# make evidence CORPORA=FOLDER OUT=FOLDER MODEL=FOLDER  the study of docs/evidence.md (hours)
# make clean  remove what make made

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench docs evidence clean

demo: $(VENV)/.installed
	$(BIN)/coresetdb demo

test: check
	$(BIN)/python -m pytest -n 2 --dist loadscope tests

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

evidence: $(VENV)/.installed-evaluate
	$(BIN)/python benchmarks/evidence.py $(CORPORA) $(OUT) --model $(MODEL) $(OPTIONS)

# torch comes first and by its pinned version, so that no other package's looser demand picks one.
$(VENV)/.torch: constraints.txt
	python3 -m venv $(VENV)
	$(PIP) $(shell grep '^torch==' constraints.txt)
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) -e '.[docs]'
	touch $@

$(VENV)/.installed-evaluate: $(VENV)/.installed
	$(PIP) -e '.[evaluate]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info coresetdb-demo
