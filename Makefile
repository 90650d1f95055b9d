# The two doors for a person are `make demo` and `make test`; both install what the machine lacks.
# All targets share one build: the dev profile, which is optimised (see Cargo.toml).

CARGO_HOME ?= $(HOME)/.cargo
export CARGO_HOME
# rustup may have been installed a moment ago, without this shell knowing. The assignment stands before every command:
# macOS has make 3.81, which starts simple lines without a shell and by its own PATH, not by an exported one.
cargo := PATH='$(CARGO_HOME)/bin':"$$PATH" cargo

DEMO_OUT ?= demo-out
DEMO_ARGS ?=
STRIP ?= strip

.DEFAULT_GOAL := help
.PHONY: help setup demo install header test test-python test-kotlin test-swift test-valgrind test-aarch64 test-heavy \
    check-phones lint check-adapter bench bench-peer bench-decode bench-rollouts bench-cost bench-cancel \
    bench-conversation bench-all bench-learning bench-votes bench-speculation

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building needs: cmake, a C++ compiler, libclang, Rust
	@scripts/setup.sh

demo: setup ## Quantize, ask, adapt and ask again, on the embedded model; the report goes to demo-out/
	$(cargo) run --locked -- demo --out $(DEMO_OUT) $(DEMO_ARGS)

test: setup ## Run every test
	$(cargo) test --workspace --locked --no-fail-fast

test-python: setup ## Generate the Python bindings and run their tests
	PATH='$(CARGO_HOME)/bin':"$$PATH" bindings/python/generate.sh
	python3 bindings/python/test_owlet.py

test-kotlin: setup ## Build the Kotlin library and run its tests; installs JNA, JUnit and the Kotlin compiler
	mobile/kotlin/test.sh

check-phones: setup ## Compile the Rust half for Android and iOS (Debian on x86-64; links nothing, fetches 170 MB)
	$(cargo) build --locked -p owlet-runtime
	mobile/check-targets.sh

PREFIX ?= /usr/local
install: setup ## Install the C library, its header, pkg-config file and CMake package below PREFIX
	$(cargo) build --locked -p owlet-c
	STRIP='$(STRIP)' sh bindings/c/install/install.sh target/debug '$(PREFIX)'

header: setup ## Make bindings/include/owlet.h anew from the sources
	OWLET_WRITE_HEADER=1 $(cargo) test --locked -p owlet-c --test header

# Valgrind 3.19 knows no AVX-512: a build of its own, llama.cpp included, for processors of 2013.
test-valgrind: setup ## Run the C programs under valgrind; builds everything once more
	@scripts/setup.sh valgrind
	RUSTFLAGS='-C target-cpu=x86-64-v3' $(cargo) test --locked --target-dir target/valgrind -p owlet-c --test programs valgrind

test-heavy: setup ## Run the tests that take a minute: recovery of the embedded model from 2 bits, thousands of damaged files
	$(cargo) test --workspace --locked --test recovery --test bad_files -- --ignored

test-swift: setup ## Test the Swift package; fetches Swift where there is none (1.5 GB in target/, Debian)
	mobile/swift/test.sh

test-aarch64: setup ## Build for 64-bit ARM Linux and test under qemu; a long build, optional
	mobile/test-aarch64.sh

lint: ## Check formatting, clippy, the documentation and the shell scripts
	@scripts/setup.sh shellcheck
	$(cargo) fmt --all --check
	$(cargo) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(cargo) doc --workspace --no-deps --locked
	shellcheck -x scripts/*.sh bindings/c/install/*.sh bindings/python/*.sh mobile/*.sh mobile/*/*.sh benches/peer/run.sh .ci/run

BENCH_ARGS ?=
bench: setup ## Time a training step, the gradient through packed weights, the resize of a photo, and kept prompts (docs/performance.md)
	$(cargo) bench --profile dev --bench training -- $(BENCH_ARGS)
	$(cargo) bench --profile dev -p owlet-runtime --bench out_prod
	$(cargo) bench --profile dev -p owlet-runtime --bench resize
	$(cargo) bench --profile dev --bench prompts

bench-peer: setup ## Time the same training step in transformers + peft, and then ours
	benches/peer/run.sh $(BENCH_ARGS)
	$(cargo) bench --profile dev --bench training -- $(BENCH_ARGS)

bench-votes: setup ## Ask held-out questions eight times and let the answers vote (docs/votes.md)
	$(cargo) bench --profile dev --locked --bench votes -- $(BENCH_ARGS)

BENCH_THREADS ?= 2
BENCH_MODELS := target/bench-models
$(BENCH_MODELS)/%.gguf:
	mkdir -p $(BENCH_MODELS)
	$(cargo) run --locked -- synth $(SHAPE_$*) --quiet -o $@
SHAPE_text := --preset smollm2-135m --type Q8_0
SHAPE_vision := --preset qwen3-vl-2b --layers 8 --type Q4_K_M

bench-decode: setup $(BENCH_MODELS)/text.gguf ## Time one, 4 and 8 answers by our decode loop and by a bare one of llama.cpp
	$(cargo) run --locked -- bench -m $(BENCH_MODELS)/text.gguf --threads $(BENCH_THREADS) --tokens 128 --repeats 9

bench-rollouts: setup $(BENCH_MODELS)/vision.gguf ## Time eight answers about a picture as a group and one by one
	$(cargo) bench --profile dev --locked --bench rollouts -- --threads $(BENCH_THREADS)
	$(cargo) bench --profile dev --locked --bench rollouts -- --threads $(BENCH_THREADS) --rounds 3 --tokens 32 \
	    --model $(CURDIR)/$(BENCH_MODELS)/vision.gguf

bench-cancel: setup $(BENCH_MODELS)/seeing/model.gguf ## Time how soon every phase ends that is cancelled
	$(cargo) bench --profile dev --locked -p owlet-runtime --bench cancel -- $(CURDIR)/$(BENCH_MODELS)/seeing/model.gguf 1024 2048 $(BENCH_THREADS)

$(BENCH_MODELS)/seeing/model.gguf:
	mkdir -p $(BENCH_MODELS)/seeing
	$(cargo) run --locked -- synth $(SHAPE_vision) --quiet -o $@ --mmproj-out $(BENCH_MODELS)/seeing/mmproj-model.gguf

bench-conversation: setup ## Time the first token of a second question about a picture
	$(cargo) run --locked -- bench --threads $(BENCH_THREADS) --samples 1

bench-speculation: setup ## Time answers with and without guesses, by n-grams and by a draft model
	$(cargo) bench --profile dev --locked --bench speculation -- --threads $(BENCH_THREADS) $(BENCH_ARGS)

bench-cost: setup ## Time training steps over a grid, fit the law of their cost, draw docs/performance/cost.svg
	PATH='$(CARGO_HOME)/bin':"$$PATH" python3 benches/cost.py --threads $(BENCH_THREADS)

bench-all: bench bench-decode bench-rollouts bench-conversation bench-cost ## All benches that need nothing but this repository

LEARNING_ARGS ?=
bench-learning: setup ## Train over seeds, by three methods and over a published model; docs/learning.md has the results
	$(cargo) build --locked
	PYTHONPATH=benches python3 -m learning $(LEARNING_ARGS)

# Binary wheels for Linux and macOS; not part of `test`, which shall not depend on a package index for Python.
PEER_ENV := target/peer
check-adapter: ## Load the demo's model and adapter in a llama.cpp that is not ours, and compare replies
	@scripts/setup.sh python-venv
	test -d $(PEER_ENV) || python3 -m venv $(PEER_ENV)
	$(PEER_ENV)/bin/pip install --quiet xllamacpp==2026.10.11549
	test -f $(DEMO_OUT)/adapter.gguf || $(cargo) run --locked -- demo --out $(DEMO_OUT) $(DEMO_ARGS)
	$(PEER_ENV)/bin/python tests/peer/adapter_elsewhere.py $(DEMO_OUT)/owlet-tiny-Q8_0.gguf \
	    $(DEMO_OUT)/mmproj-owlet-tiny-F16.gguf $(DEMO_OUT)/adapter.gguf "$$(ls -d $(DEMO_OUT)/heldout-* | head -n 1)"
