# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
# Both make .venv from a bare Python 3.11 and install what they need under the pins of constraints.txt.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := pyproject.toml constraints.txt

# Bytecode is kept, whatever the environment says: hundreds of processes of the tests would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test check lint types docs bench faults clean help

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.plain: $(VENV)/bin/python $(SOURCES)
	$(PIP) --editable .
	@touch $@

# Everything on top of the plain installation: all extras, the test and development tools.
$(VENV)/.full: $(VENV)/.plain
	$(PIP) --editable '.[all,test,dev,docs]'
	@touch $@

quickstart: $(VENV)/.plain  ## from ROOT files to a served prediction, in about a minute
	$(BIN)/mlaas4hep quickstart

# A real MLflow server for the tests, in an environment of its own: it wants older versions of what others need.
$(VENV)-mlflow/.made: $(SOURCES)
	$(PYTHON) -m venv $(VENV)-mlflow
	$(VENV)-mlflow/bin/python -m pip install --quiet --disable-pip-version-check mlflow==3.17.2
	@touch $@

# TensorFlow for the tests, on top of all else but before it: it wants an older h5py.
$(VENV)-tensorflow/.made: $(VENV)/.full
	$(PYTHON) -m venv $(VENV)-tensorflow
	grep -v '^h5py==' constraints.txt > $(VENV)-tensorflow/constraints.txt
	$(VENV)-tensorflow/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint $(VENV)-tensorflow/constraints.txt tensorflow-cpu==2.21.0 tf2onnx==1.17.0
	@# Keras 2, by which the original stored its models; it asks for TensorFlow under its other name.
	$(VENV)-tensorflow/bin/python -m pip install --quiet --disable-pip-version-check --no-deps tf_keras==2.21.0
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > "$$($(VENV)-tensorflow/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/rest.pth"
	@touch $@

# A certified OpenID provider for the tests, which runs on Node.js. The one thing here that comes from npm's registry:
# where that cannot be reached the rest is checked all the same, and pytest names the tests that were left out.
$(VENV)-oidc/.made: $(SOURCES)
	mkdir -p $(VENV)-oidc
	npm install --loglevel=error --no-audit --no-fund --fetch-retries=1 --prefix $(VENV)-oidc oidc-provider@9.13.3 \
	  && touch $@ || echo "oidc-provider could not be installed: tests against a real OpenID provider are skipped" >&2

test: $(VENV)/.full  ## every promise once, in minutes: all tests but the slow ones, on all cores
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow"

lint: $(VENV)/.full
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.full
	$(BIN)/mypy

check: lint types $(VENV)-mlflow/.made $(VENV)-oidc/.made $(VENV)-tensorflow/.made  ## lint, types, layers, all tests (the slow ones too) with coverage: what CI runs
	MLAAS4HEP_REQUIRE_SERVICES=1 MLAAS4HEP_ALL_EXAMPLES=1 \
	$(BIN)/python -m pytest -q -n auto --dist worksteal --cov --cov-report=term --durations=15

docs: $(VENV)/.full  ## the documentation, in docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

bench: $(VENV)/.full  ## speed, side by side with peers and limits; damaged files and servers
	for codec in zlib lz4 zstd; do $(BIN)/python -m benchmarks.streaming --codec $$codec --json; done
	$(BIN)/python -m benchmarks.remote --rtt-ms 50 --mb-per-s 40 --json
	$(BIN)/python -m benchmarks.mixing
	$(BIN)/python -m benchmarks.classes
	$(BIN)/python -m benchmarks.training --json
	$(BIN)/python -m benchmarks.clients --json
	$(BIN)/python -m benchmarks.serving --json
	$(BIN)/python -m benchmarks.rows --json
	$(BIN)/python -m benchmarks.overload --json
	$(BIN)/python -m benchmarks.switching --json
	$(BIN)/python -m benchmarks.scoring --json

faults: $(VENV)/.full  ## damaged files, bad servers, killed streams: what becomes of every event
	$(BIN)/python -m benchmarks.mutations --json
	$(BIN)/python -m benchmarks.faults --json
	$(BIN)/python -m benchmarks.kills --json --points 200
	$(BIN)/python -m benchmarks.score_kills --json
	$(BIN)/python -m benchmarks.fuzz --json

clean:
	rm -rf $(VENV) $(VENV)-mlflow $(VENV)-oidc $(VENV)-tensorflow .bench
