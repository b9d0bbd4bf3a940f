# The project's verbs. Each does all the set-up that it needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
# More arguments for the program: make run ARGS='--bind 0.0.0.0'
ARGS ?=
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release

.PHONY: help run test test-crates test-wait test-rest test-clients test-build check mutants setup bench loadtest web docs clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: web ## Build the server and run it in dev mode
	$(CARGO) run --release -p onair -- --dev $(ARGS)

test: setup ## Pass every test, real clients included
	$(CARGO) test --workspace --no-fail-fast

# Test binaries that wait for stores and time-outs run beside all others; the last need clients or load. All commands
# name the same packages: for others the dependencies would be built again, with other features.
CRATES := -p onair-shared -p onair-sfu -p onair-signaling -p onair
WAIT := http hostile store store_mongo streams
LATER := clients load product stacks versions
TESTS := $(sort $(basename $(notdir $(wildcard shared/tests/*.rs sfu/tests/*.rs signaling/tests/*.rs control/tests/*.rs))))
REST := $(filter-out $(WAIT) $(LATER),$(TESTS))

test-crates: setup ## Pass the crates' own tests alone, in three minutes once they are built
	$(CARGO) test $(CRATES) --lib $(addprefix --test ,$(WAIT) $(REST)) --no-run
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-wait test-rest

test-wait:
	RUST_TEST_THREADS=3 $(CARGO) test $(CRATES) $(addprefix --test ,$(WAIT)) --no-fail-fast

test-rest:
	RUST_TEST_THREADS=3 $(CARGO) test $(CRATES) --lib $(addprefix --test ,$(REST)) --no-fail-fast

test-clients: setup ## Pass every client and version of years past, and write docs/clients.md
	control/tests/clients/versions/setup
	$(CARGO) build --workspace --examples
	ONAIR_WRITE_CLIENTS=1 $(CARGO) test --workspace --test stacks --test versions --no-fail-fast

test-build: ## Build the tests without running them
	$(CARGO) test --workspace --no-run

check: ## Format, lints, licences and advisories of the dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --workspace --test versions --locked -- -D warnings
	.ci/licences
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny check; \
	else echo "check: no cargo-deny here, so no look at advisories (see README.md)"; fi

mutants: ## Break the code one place at a time: make mutants ARGS='--in-diff main' (docs/mutants.md)
	.ci/mutants $(ARGS)

setup: ## Install what the tests need: Chromium, Python and npm packages
	control/tests/clients/setup

bench: ## Measure the steps of the packet path, the floor, and the server against it
	$(CARGO) build --release -p bench -p loadtest -p onair
	$(CARGO) bench -p bench
	$(RELEASE)/bench turn
	$(RELEASE)/bench floor
	$(RELEASE)/bench compare --rounds 2 --duration 10s $(ARGS) --a-name onair --a '$(RELEASE)/onair --dev'

loadtest: ## Load a running server: make loadtest ARGS='--url ws://127.0.0.1:7880 --subscribers 200'
	$(CARGO) run --release -p loadtest -- $(ARGS)

web: ## Build the pages that the binary carries (there are none yet)

docs: ## Build the documentation of the code
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items

clean: ## Remove everything built or installed here
	$(CARGO) clean
	rm -rf control/tests/clients{,/versions}/{.venv*,node_modules}
