# Every target makes what it needs in .venv; nothing has to be installed by hand but Python >= 3.11, where
# something is compiled (compiled, test-compiled, bench...) a C compiler and Python's headers, and to
# measure h2load (Debian: nghttp2-client).
PYTHON ?= python3
PIP := .venv/bin/pip install --quiet --disable-pip-version-check
BIN := .venv/bin
# In an environment of its own: generated code demands a runtime at least as new as its generator,
# so an older one spares applications an upgrade, while the service itself runs on newer libraries.
GENERATOR := grpcio-tools==1.76.0 mypy-protobuf==5.1.0
PACKAGES := convoy service training tests benchmarks examples setup.py
PROTOC = .venv/generator/bin/python -m grpc_tools.protoc --python_out=$(OUT) --pyi_out=$(OUT) \
	--grpc_python_out=$(OUT) --mypy_grpc_out=quiet:$(OUT) \
	--plugin=protoc-gen-mypy_grpc=.venv/generator/bin/protoc-gen-mypy_grpc
# Where generated code goes. Only the service speaks the Open Inference Protocol, so it is there.
GENERATED := convoy/v1 service/oip

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-compiled lint train serve proto compiled bench bench-gpu bench-peers

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/dev.stamp ## Make .venv with everything for development (PyTorch included)

demo: .venv/serve.stamp ## Start the service on the shipped model, classify photos, show the metrics
	@$(BIN)/python examples/demo.py

# In the order of the files' names: xdist would end with those of the fewest tests, which are among the
# slowest. The processes fill the processors, so PyTorch's threads would only be in the way of the others'.
test: .venv/dev.stamp ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
		--dist loadfile --no-loadscope-reorder

# A safe path leaves out the working directory, where the interpreted modules are. With the front envoy
# alone, which the image has, and without the tests of starts and of changes that fail, of which little is
# compiled.
test-compiled: build/compiled.stamp ## Run most of the service's tests on its compiled modules (takes a C compiler)
	OMP_NUM_THREADS=1 PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/compiled:$(CURDIR) $(BIN)/pytest tests/service --compiled \
		-k 'not grpcio' $(addprefix --ignore tests/service/test_,changes_that_fail.py process.py) \
		--numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: .venv/dev.stamp .venv/generator.stamp ## Check style, types and generated code
	$(BIN)/ruff check $(PACKAGES)
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/mypy
	@rm -rf build/proto && mkdir -p build/proto && $(MAKE) --no-print-directory generate OUT=build/proto
	@for file in $(addsuffix /*_pb2*,$(addprefix build/proto/,$(GENERATED))); do \
		diff $$file $${file#build/proto/} \
			|| { echo "$${file#build/proto/} is not what protos/ generates: run make proto"; exit 1; }; \
	done

train: .venv/dev.stamp ## Train a model as the shipped one from the data in CONVOY_DATA (half an hour with AMX, else three times that)
	$(BIN)/convoy-train fit cifar10-fast $(ARGS)

serve: .venv/serve.stamp ## Serve models/ on 127.0.0.1:8500, metrics on :8501
	$(BIN)/convoy-serve --models models

proto: .venv/generator.stamp ## Generate code from protos/
	@$(MAKE) --no-print-directory generate OUT=.

compiled: build/compiled.stamp ## Compile what every request passes through (a minute; takes a C compiler)

bench: build/compiled.stamp ## Measure this service beside bare ONNX Runtime (five to eight minutes)
	$(BIN)/python -m benchmarks.throughput

bench-gpu: .venv/dev.stamp ## Measure it on an NVIDIA GPU beside bare ONNX Runtime (less than eight minutes)
	@$(BIN)/python -m benchmarks.gpu --check
	$(MAKE) --no-print-directory compiled
	$(PIP) --editable '.[dev,gpu]'
	$(BIN)/python -m benchmarks.gpu

bench-peers: build/compiled.stamp ## Measure it beside Triton, Mosec, MLServer, LitServe and Ray Serve (25 minutes)
	$(BIN)/python -m benchmarks.peers

.PHONY: generate
generate:
	$(PROTOC) -Iprotos protos/convoy/v1/*.proto
	$(PROTOC) -Iservice/oip=protos/inference protos/inference/*.proto

# Beside the sources, not among them: there, what is compiled would hide what was changed since.
build/compiled.stamp: setup.py pyproject.toml .venv/dev.stamp $(shell find convoy service -name '*.py')
	rm -rf build/compiled build/lib*
	@mkdir -p build && touch build/compiling
	CONVOY_COMPILE=1 $(PIP) --no-build-isolation --no-deps --target build/compiled .
	@mv build/compiling $@

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Convoy needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ...'; exit 1; }
	$(PYTHON) -m venv .venv

.venv/generator.stamp: Makefile | .venv/bin/pip
	$(PYTHON) -m venv .venv/generator
	.venv/generator/bin/pip install --quiet --disable-pip-version-check $(GENERATOR)
	@touch $@

.venv/serve.stamp: pyproject.toml | .venv/bin/pip
	$(PIP) --editable '.[serve]'
	@touch $@

.venv/dev.stamp: pyproject.toml | .venv/bin/pip
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/serve.stamp
