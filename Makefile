# Every target makes its own .venv where there is none; it needs only python3 >= 3.11 with pip.
# MLX=metal|cpu|cuda chooses the build of MLX; the default suits this machine.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ifeq ($(shell uname -s),Darwin)
MLX ?= metal
else ifneq ($(shell command -v nvidia-smi),)
MLX ?= cuda
else
MLX ?= cpu
endif
# Asking for nothing but what the target needs keeps `make demo` quick.
RUN_STAMP := $(VENV)/.run-$(MLX)
DEV_STAMP := $(VENV)/.dev-$(MLX)
# What the protocol must stay compatible with: the last release, else the last commit.
RELEASE := $(shell git describe --tags --abbrev=0 2>/dev/null || echo HEAD)
PROTOS := protos/stip/v1/tensor.proto protos/stip/v1/manifest.proto protos/stip/v1/inference.proto protos/stip/v1/errors.proto

.PHONY: help demo test test-long faults lint format generate bench audit soak train-demo clean
help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(RUN_STAMP) ## run all three parties on this machine with the demo model
	@$(BIN)/stip-client demo

# Most tests wait rather than compute: three at a time keep two cores busy.
WORKERS ?= 3
test: $(DEV_STAMP) ## run the tests, WORKERS=3 at a time
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not long"

test-long: $(DEV_STAMP) ## run the tests that `make test` leaves out because they take long
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m long

TIMES ?= 10
faults: $(DEV_STAMP) ## run the tests of faults and of the server TIMES=10 times over
	$(BIN)/python -m pytest -n $(WORKERS) --count $(TIMES) tests/faults tests/server

lint: $(DEV_STAMP) ## check style, types, walls, the protocol and its generated stubs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf breaking --against .git#ref=$(RELEASE)
	$(BIN)/python -m tests.support.check_stubs $(PROTOS)

format: $(DEV_STAMP) ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write

generate: $(DEV_STAMP) ## regenerate the stubs from the .proto files
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=protos --pyi_out=protos $(PROTOS)
	$(BIN)/python -m grpc_tools.protoc -Iprotos --grpc_python_out=protos protos/stip/v1/inference.proto

bench: $(DEV_STAMP) ## measure speed against mlx-lm; writes bench-results/ (about 20 minutes)
	$(BIN)/python -m benchmarks.speed

# Its products are small: OpenBLAS's threads, too, would spend more time waiting than computing.
audit: $(DEV_STAMP) ## attack the demo model in every mode; writes audit-results/ (about 2 minutes)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.audit_tables

# Sixteen clients keep two cores busy; memory that leaks a little shows only after minutes.
MINUTES ?= 10
soak: $(DEV_STAMP) ## let clients come and go for MINUTES=10 at one server; writes soak-results.json
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) --clients 16

train-demo: $(DEV_STAMP) ## train the demo model afresh into build/demo_model (half an hour or more)
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable ".[train]"
	$(BIN)/python benchmarks/demo_model/train.py --out build/demo_model

clean: ## remove what the other targets made
	rm -rf $(VENV) build bench-results audit-results soak-results.json *.egg-info

# Debian's python3 has no ensurepip unless python3-venv is installed; virtualenv needs only pip.
$(VENV)/pyvenv.cfg:
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { \
	  rm -rf $(VENV) && $(PYTHON) -m pip install --quiet --quiet --target $(VENV)-bootstrap virtualenv && \
	  PYTHONPATH=$(VENV)-bootstrap $(PYTHON) -m virtualenv --quiet $(VENV) && rm -rf $(VENV)-bootstrap; }

$(RUN_STAMP): $(VENV)/pyvenv.cfg pyproject.toml
	@echo "installing into $(VENV) (MLX: $(MLX)) ..."
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable ".[$(MLX)]"
	@touch $@

$(DEV_STAMP): $(VENV)/pyvenv.cfg pyproject.toml
	@echo "installing into $(VENV) with the development tools (MLX: $(MLX)) ..."
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable ".[$(MLX),dev]"
	@touch $@ $(RUN_STAMP)
