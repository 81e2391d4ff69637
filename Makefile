# smolvm: `make demo` shows it, `make test` checks all of it.

GO       ?= go
PREFIX   ?= $(HOME)/.local
FUZZTIME ?= 20s
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Static programs: the agent runs in any image, smolvm on any host.
export CGO_ENABLED = 0

BIN   = bin/smolvm
AGENT = internal/agentbin/bin/smolvm-agent
BUILD = $(GO) build -trimpath -buildvcs=false

# Packages with tests that boot machines. They come last, one package at a time:
# two machines at once are slower than one after the other.
VMPKGS = $$(grep -rlE '^func (TestVM|Example)' --include=*_test.go . | xargs -n1 dirname | sort -u)

.DEFAULT_GOAL := help

## help: list what can be made
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## demo: set this machine up and run a Python script in a sandbox
demo: install
	$(PREFIX)/bin/smolvm setup
	@echo
	$(PREFIX)/bin/smolvm run --verbose -- python3 - < examples/demo/hello.py

## build: build bin/smolvm, with the guest agent in it
build: agent
	$(BUILD) -ldflags "-s -w -X main.version=$(VERSION)" -o $(BIN).new ./cmd/smolvm
	@mv $(BIN).new $(BIN)

## install: put smolvm into PREFIX/bin, by default ~/.local/bin
install: build
	install -D $(BIN) $(PREFIX)/bin/smolvm

## wheel: a Python package in dist/ that carries the program
wheel: build
	@mkdir -p dist
	@SMOLVM_WHEEL_BIN=$(CURDIR)/$(BIN) PYTHONPATH=python/backend python3 -B -c 'import smolvm_build; print("dist/" + smolvm_build.build_wheel("dist"))'

# What tests and measurements need beyond Go: QEMU, a kernel, the default image.
ready: build
	@echo "== what is missing here"
	$(BIN) setup

# Built beside and moved, so that nobody embeds half of it.
agent:
	$(BUILD) -ldflags "-s -w" -o bin/smolvm-agent ./cmd/smolvm-agent
	@mv bin/smolvm-agent $(AGENT)

## test: check everything, with real machines at the end
test: check unit vm

# -count 1: the cache does not know that these tests read the whole checkout.
## check: format, vet, architecture
check: agent
	@echo "== format, vet, architecture"
	@bad=$$(gofmt -l .); test -z "$$bad" || { echo "gofmt -w $$bad"; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	$(GO) test -count 1 ./internal/archtest

## unit: tests that boot nothing
unit: ready
	@echo "== tests that boot nothing"
	$(GO) test -short -skip '^(TestVM|TestKVM|Example)' -timeout 10m ./...

## vm: tests that boot machines
vm: ready
	@echo "== tests that boot machines"
	SMOLVM_TEST_BIN=$(CURDIR)/$(BIN) $(GO) test -p 1 -count 1 -run '^(TestVM|Example)' -timeout 60m $(VMPKGS)

## test-kvm: check the driver under KVM; without one, in a guest that has one
test-kvm: build
	$(BIN) setup
	$(GO) test -count 1 -run '^TestKVM' -timeout 30m ./internal/vmm/qemu

## bench: measure, on machines that are real
bench: ready
	SMOLVM_BIN=$(CURDIR)/$(BIN) $(GO) run ./bench

## fuzz: fuzz every parser for FUZZTIME (20s)
fuzz:
	@grep -rHoE '^func Fuzz[A-Za-z0-9_]*' --include=*_test.go . | sed 's/^\(.*\)\/[^/]*:func /\1 /' | sort -u | \
	while read -r dir name; do \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s "$$dir" || exit 1; \
	done

## docs: write docs/cli anew
docs:
	$(GO) test ./internal/cli -run '^TestReference$$' -update


.PHONY: test-kvm
.PHONY: help demo build install wheel agent ready test check unit vm bench fuzz docs
