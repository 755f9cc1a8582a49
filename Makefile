PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -q -q

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-models run test test-all test-long test-quick test-versions lint audit results clean

# The oldest and the newest TensorFlow and Keras that setup.py allows, and what depends on them.
VERSIONS := 2.20-3.12 2.21-3.15
VERSION_TESTS := tests/unit/keras tests/unit/servers tests/unit/tf $(addprefix tests/cluster/test_, \
    $(addsuffix .py,callbacks cut dismissal fit minimize models optimizers promises saving validation))

help: ## List the targets.
	@echo 'make TARGET [PYTHON=python3.11] [ARGS="flags of the command"]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

install: $(VENV)/installed ## Make .venv with the library and what scripts and tests need.

install-models: $(VENV)/installed-models ## Add the TensorFlow model garden to .venv (0.7 GB more).

run: install ## Train a small model on a local cluster; ARGS="--help" lists the flags.
	$(BIN)/python scripts/train.py $(ARGS)

test: install ## Run the tests; ARGS="tests/unit -k gate" runs some of them.
	$(BIN)/python -m pytest $(if $(ARGS),,-m "not long and not extra") $(ARGS)

test-long: install ## Run the tests marked "long": whole programs, faults, the paper's models.
	$(BIN)/python -m pytest -m "long and not extra" $(ARGS)

test-all: install ## Run all tests, also those marked "long" or "extra" (they repeat others).
	$(BIN)/python -m pytest -m "" $(ARGS)

test-quick: install ## Run the tests of single modules and files: no cluster, two minutes.
	$(BIN)/python -m pytest -m "not slow and not long and not extra" tests/unit tests/project $(ARGS)

test-versions: ## Run what depends on them with the oldest and the newest TensorFlow and Keras.
	@for pair in $(VERSIONS); do \
	    $(MAKE) --no-print-directory $(VENV)/versions/$$pair/installed && \
	    echo "TensorFlow and Keras $$pair:" && \
	    $(VENV)/versions/$$pair/bin/python -m pytest $(VERSION_TESTS) $(ARGS) || exit 1; \
	done

lint: install ## Check style and types; changes nothing.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

results: install ## Redo the experiments of the paper; ARGS="--data_dir=DIR" has MNIST.
	@for name in $$($(BIN)/python scripts/experiment.py --list | cut -d" " -f1); do \
	    echo "$$name:"; $(BIN)/python scripts/experiment.py $$name --replace $(ARGS) || exit $$?; \
	done
	$(BIN)/python scripts/plot.py

audit: install ## Check the locked packages against known advisories; asks pypi.org.
	@test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && \
	    $(VENV)/audit/bin/python -m pip --disable-pip-version-check --no-input -q -q install pip-audit; }
	$(VENV)/audit/bin/pip-audit --no-deps --disable-pip -r requirements.lock

clean: ## Delete .venv and all caches.
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# setuptools and wheel come first, at the lock's versions: what has no wheel (promise, and
# tf_backup itself) is then built with them and not with whatever is newest that day. seqeval, of the
# model garden, is built with setuptools_scm.
$(VENV)/installed: requirements.lock setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	    echo 'tf_backup needs Python 3.10 to 3.13, and "$(PYTHON)" is none of them: name one, as in "make install PYTHON=python3.11".' >&2; \
	    exit 1; }
	@echo 'Making $(VENV) ...'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -c requirements.lock setuptools wheel
	@echo 'Installing requirements.lock: about 800 MB to download the first time, one to five minutes ...'
	@$(PIP) install --no-build-isolation -r requirements.lock
	@echo 'Installing tf_backup ...'
	@$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@
	@echo 'Installed in $(VENV).'

# Packages that come with TensorFlow and Keras are of no fixed version.
$(VENV)/versions/%/installed: requirements.lock setup.py
	@echo 'Making $(@D) ...'
	@$(PYTHON) -m venv $(@D)
	@grep -vE '^(absl-py|h5py|keras|ml_dtypes|numpy|protobuf|tensorboard|tensorflow)==' requirements.lock > $(@D)/constraints.txt
	@$(@D)/bin/python -m pip --disable-pip-version-check --no-input -q -q install -c $(@D)/constraints.txt \
	    "tensorflow==$(firstword $(subst -, ,$*)).*" "keras==$(lastword $(subst -, ,$*)).*" \
	    -e ".[tests,report,metrics]"
	@touch $@

$(VENV)/installed-models: requirements-models.lock $(VENV)/installed
	@echo 'Installing requirements-models.lock ...'
	@$(PIP) install -c requirements.lock $$(grep '^setuptools-scm' requirements-models.lock)
	@$(PIP) install --no-build-isolation -r requirements-models.lock
	@touch $@
	@echo 'Installed the model garden in $(VENV).'
