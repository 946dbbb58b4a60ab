# NOFX. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The Go version is pinned here as well as in go.mod: where GOTOOLCHAIN is set
# to local, a toolchain line alone does not switch.
export GOTOOLCHAIN := go1.26.11
export GOFLAGS := -buildvcs=false

MODULE  := github.com/nofx-run/nofx
VERSION := $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X $(MODULE)/internal/buildinfo.version=$(VERSION)
BIN     := bin
TOOL    := go tool -modfile=tools/go.mod
DEMO    ?= .nofx-demo
UP      ?= .nofx

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what is missing on this machine (Debian 12, as root)
	@scripts/setup.sh

.PHONY: build
build: ## put every binary in bin/
	@mkdir -p $(BIN)
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ $$(scripts/binaries.sh)
	@$(MAKE) --no-print-directory -C plugins/supervisor BIN=$(CURDIR)/$(BIN)

.PHONY: runsc
runsc: $(BIN)/runsc ## build gVisor's runsc, at the version in tools/runsc/go.mod

$(BIN)/runsc: tools/runsc/go.mod tools/runsc/go.sum scripts/runsc.sh
	@scripts/runsc.sh $@

.PHONY: river
river: $(BIN)/river ## build River's command and a program of its library, which stand next to ours

$(BIN)/river: tools/river/go.mod tools/river/go.sum tools/river/enqueue/main.go scripts/river.sh
	@scripts/river.sh $@

.PHONY: test
test: setup build runsc ## install what is missing, build, vet and run all tests
	go vet ./...
	scripts/test.sh

.PHONY: demo
demo: setup build ## run a real C project's build and test suite through the whole system
	scripts/demo.sh $(DEMO)

.PHONY: up
up: setup build ## run the system on this machine and keep serving (data in .nofx)
	$(BIN)/nofx up --data $(UP)

.PHONY: lint
lint: ## golangci-lint over the module
	$(TOOL) golangci-lint run ./...

.PHONY: generate
generate: ## write the generated code and documents anew
	scripts/generate.sh

.PHONY: generate-check
generate-check: ## fail if the committed generated files are not what generate writes
	scripts/generate.sh --check

.PHONY: bench
bench: setup build runsc river ## measure sandboxes next to bwrap, runc, runsc and docker run, plugin calls, the control plane next to River, and the whole system
	go test -p 1 -run '^$$' -bench . -timeout 30m ./plugins/local ./plugins/container ./plugins/egress ./sdk/driver/driverrpc ./daemon/internal/pluginhost ./daemon/internal/ledger ./daemon/internal/cgroup
	go test -run '^$$' -bench . -benchtime 1x -timeout 60m ./test/bench

.PHONY: hostile
hostile: setup build runsc ## run programs that try to get out, on every driver, and print what held
	NOFX_HOSTILE=all go test -count=1 -v -timeout 30m ./test/hostile

.PHONY: failpoints
failpoints: ## build the binaries that a test can hold at a named place, for the tests alone
	@mkdir -p $(BIN)/failpoints
	@CGO_ENABLED=0 go build -tags failpoint -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/failpoints/ $$(scripts/binaries.sh)
	@$(MAKE) --no-print-directory -C plugins/supervisor BIN=$(CURDIR)/$(BIN)/failpoints

.PHONY: killmatrix
killmatrix: setup build ## kill each process at each place of a step's life, and write docs/kill-matrix.md
	NOFX_KILLMATRIX=all go test -count=1 -v -parallel 8 -timeout 60m ./test/killmatrix

.PHONY: killmatrix-bugs
killmatrix-bugs: setup build ## put known bugs into copies of the tree, and see that the kill matrix finds each
	NOFX_KILLMATRIX=bugs go test -count=1 -v -timeout 30m -run TestBugs ./test/killmatrix

.PHONY: chaos
chaos: setup build ## load on a fleet of real processes while faults are put into it, for NOFX_CHAOS_TIME (5m)
	NOFX_CHAOS_TIME=$${NOFX_CHAOS_TIME:-5m} go test -count=1 -v -timeout 60m -run '^TestChaos$$' ./test/chaos

.PHONY: chaos-bugs
chaos-bugs: setup build ## show that the chaos suite turns red on bugs that are put in
	scripts/chaos-bugs.sh

.PHONY: acceptance
acceptance: ## check the units and the control groups in a virtual machine with systemd and cgroup v2
	scripts/acceptance.sh

.PHONY: vuln
vuln: ## govulncheck, where its database can be had
	scripts/vuln.sh

.PHONY: clean
clean: ## remove what the build made
	rm -rf $(BIN) $(DEMO)
