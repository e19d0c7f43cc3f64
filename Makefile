# Everything runs from one virtual environment that is made on first use and kept up to date afterwards.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := schemas engines workflows platform

.DEFAULT_GOAL := help
.PHONY: help install lint format test schemas protos problems bench bench-peers demo serve clean kills

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make the virtual environment

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	mkdir -p .typing/flowyard
	for package in $(PACKAGES); do ln -sfn ../../$$package .typing/flowyard/$$package; done
	touch $(STAMP)

lint: $(STAMP) ## Check style, types and the rules between the packages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A file's tests stay in one process: they share the server that the file starts. The files come in the order of `testpaths`, not
# in that of how many tests they have: a few may take long.
test: $(STAMP) ## Run the whole test suite, in one process more than there are cores, at most four
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

schemas: $(STAMP) ## Write the JSON Schemas in schemas/ anew, after a change of settings, API or workflow language
	$(BIN)/python -m flowyard.platform.cli.schemas schemas

protos: $(STAMP) ## Compile platform/rpc/protos anew, after a change of the gRPC services
	cd platform/rpc && $(abspath $(BIN))/python -m grpc_tools.protoc -I protos --include_imports --descriptor_set_out=protos.binpb \
		inference.proto management.proto open_inference_grpc.proto google/rpc/error_details.proto

problems: $(STAMP) ## Write docs/workflow-problems.md anew, after a change of what a check says
	PYTHONPATH=tests $(BIN)/python -m contract.workflows.page

bench: $(STAMP) ## Measure against the floors, about 9 minutes, into bench-results/ and docs/performance.md
	$(BIN)/python -m benchmarks.run --write-docs --connections 1 8 32 --duration 1.5

bench-peers: $(STAMP) ## Install other servers into .bench-venvs/ and measure them too, about 40 minutes
	$(BIN)/python -m benchmarks.install
	$(BIN)/python -m benchmarks.run --peers --write-docs --rounds 2 --duration 2.5

demo: $(STAMP) ## Serve the digits example, send it real images, show the answers, stop
	$(BIN)/python examples/digits/demo.py --serve

serve: $(STAMP) ## Serve the digits example on port 8080 until Ctrl-C and show what to try
	$(BIN)/python examples/digits/demo.py --serve --keep --port 8080

clean: ## Remove what was built
	rm -rf $(VENV) .typing build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

soak: $(STAMP) ## Ten minutes of mixed load while workers are killed, stopped and scaled
	$(BIN)/python -m benchmarks.soak --seconds 600

kills: $(STAMP) ## Kill a server 500 times while its registry changes, about 20 minutes
	$(BIN)/python -m benchmarks.kills --kills 500
