# `make demo` and `make test` do all the set-up on a fresh machine; nothing is installed outside .venv.
#   make demo PYTHON=python3.12        another interpreter (3.10 or newer)
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo        PyTorch without CUDA, a tenth of the download
PYTHON ?= python3
VENV ?= .venv
HEADS := bundles/head_ct_mr_rigid/sample
DEMO := $(CURDIR)/output/demo
BIN := $(VENV)/bin

LABEL_VENV ?= .venv-label

.PHONY: demo bundles test test-fast test-label gpu lint format clean

demo: $(VENV)/.installed
	$(BIN)/regplugins register $(HEADS)/fixed.nii.gz $(HEADS)/moving.nii.gz -o "$(DEMO)" --moving_label $(HEADS)/moving_label.nii.gz
	@echo
	@echo "picture     $(DEMO)/report.png"
	@echo "figures     $(DEMO)/report.json"
	@echo "warped      $(DEMO)/warped.nii.gz"
	@echo "transform   $(DEMO)/transform_0GenericAffine.mat, $(DEMO)/transform_1Warp.nii.gz"

# The configurations of the bundles, from regplugins/sharing/configs and each bundle's bundle.json.
bundles: $(VENV)/.installed
	$(BIN)/python -m regplugins build bundles/*

# Two at a time, each with one thread.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow"

# MONAI Label's server, in an environment of its own.
test-label: $(VENV)/.installed-test $(LABEL_VENV)/.installed
	REGPLUGINS_MONAILABEL="$(CURDIR)/$(LABEL_VENV)/bin/python" $(BIN)/python -m pytest -s tests/label/test_server.py

# On a machine with CUDA, with the Python that is there: nothing is installed.
gpu:
	$(PYTHON) -m pytest tests/test_cuda.py
	$(PYTHON) tests/benchmarks/gpu.py --output docs/results/gpu.md

lint: $(VENV)/.installed-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	PYTHONUTF8=1 $(BIN)/lint-imports

format: $(VENV)/.installed-test
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf $(VENV) $(LABEL_VENV) output build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("regplugins needs Python 3.10 or newer, not " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

# A torch that is pinned takes the build of the index that is given; without its dependencies sam2, which comes with
# MONAI Label and which no app of ours uses, would want another one.
$(LABEL_VENV)/.installed: pyproject.toml tests/label/requirements.txt
	$(PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	$(LABEL_VENV)/bin/python -m pip install --disable-pip-version-check --no-deps -r tests/label/requirements.txt
	@touch $@
