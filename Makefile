# make demo   a PostgreSQL with an outbox, a writer, outboxd and a broker; events as they arrive
# make test   everything: lint, unit, race, e2e against real servers, docker/ and docs/
# make soak SOAK=10m   traffic, faults and rotations mixed, then the long scenarios
# make simulate SEEDS=n SEED=s   the connector in a simulated world, see docs/simulation.md
# make fuzz   every fuzz target there is, each for FUZZTIME
# make bench  measures, beside a bare reader; make bench-debezium, beside Debezium
#
# Servers that are not on the machine are fetched into a cache outside the
# repository (OUTBOXD_CACHE, see internal/testbed).

GO      ?= go
VERSION ?= dev
FUZZTIME ?= 20s
COMMIT  := $(shell git rev-parse --short HEAD 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

.PHONY: build demo setup lint test unit race simulate simulate-plants e2e soak fuzz bench bench-debezium pictures clean image release vulncheck docker-check

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/outboxd ./cmd/outboxd

demo:
	@$(GO) -C e2e run ./demo

# What the tests need, fetched ahead so that no test waits for it.
setup:
	$(GO) -C e2e run ./setup

lint:
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "gofmt -w these files:"; echo "$$out"; exit 1; fi
	$(GO) mod tidy -diff
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@# e2e/ is a module of its own, so that go.mod holds what the program needs.
	$(GO) -C e2e mod tidy -diff
	$(GO) -C e2e vet ./...
	cd e2e && "$$($(GO) -C .. tool -n staticcheck)" ./...

test: setup lint race simulate e2e docker-check

unit:
	$(GO) test ./...

# The unit tests, under the race detector.
race:
	$(GO) test -race ./...

# Without the race detector, so that it is fast. With the build tag, franz-go can be
# simulated with several brokers. SEEDS=0: as many as fit into a minute;
# SEED=0: others each time.
SEEDS ?= 0
SEED ?= 0
simulate:
	$(GO) test -tags synctests -c -o bin/simulate.test ./internal/simulate
	bin/simulate.test -test.run '^(TestSeeds|TestFoundBefore)$$' -seed $(SEED) $(if $(filter 0,$(SEEDS)),-for 55s,-seeds $(SEEDS))

# Known mistakes, planted one by one, and after how many seeds each is found.
simulate-plants:
	$(GO) run ./internal/simulate/plants

# Scenarios that mostly wait run side by side at the end, more of them than there are
# processors.
e2e:
	$(GO) -C e2e test -count=1 -timeout 45m -parallel 4 ./...

# First everything at once, with both guarantees side by side, for as long as SOAK says:
# what happens is chosen by SEED, 0: other faults each time. Then the long form of the
# scenarios.
SOAK ?= 1h
soak:
	$(GO) -C e2e test -count=1 -v -timeout 0 -parallel 2 . -run '^TestSoak$$' -soak -soak-for $(SOAK) -soak-seed $(SEED)
	$(GO) -C e2e test -count=1 -timeout 3h . -skip '^TestSoak$$' -soak

# Left alone, go test spends up to a minute on making the first interesting input
# smaller, in which a target runs a few times.
fuzz:
	@set -e; for package in $$($(GO) list ./...); do \
		targets=$$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); \
		for target in $$targets; do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x $$package; \
		done; \
	done

bench:
	$(GO) -C e2e run ./bench

bench-debezium:
	$(GO) -C e2e run ./bench -debezium

# The pictures of the status page, in docs/pictures, of a connector that has run for a while.
pictures:
	cd docker && $(GO) test ./validate -count=1 -timeout 1h -run '^TestPictures$$' -pictures 13m

clean:
	rm -rf bin

# The container image without an engine, for amd64 and arm64: see docs/install.md.
image:
	cd docker && $(GO) run ./image -version "$(VERSION)" -commit "$(COMMIT)" -out ../bin

# What is published of a version: archives, bills of materials, checksums. See
# docs/install.md.
RELEASE   ?= ../bin/release
PLATFORMS ?= linux/amd64,linux/arm64,darwin/amd64,darwin/arm64
release:
	cd docker && $(GO) run ./release -version "$(VERSION)" -commit "$(COMMIT)" -out "$(RELEASE)" -platforms "$(PLATFORMS)"

# Known vulnerabilities in what is linked. It asks vuln.go.dev.
vulncheck:
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

# docker/ and docs/, by the tools that read them and against real servers. What it
# needs is fetched into the cache; OUTBOXD_SKIP_DOCKER_CHECK=1 skips what cannot be had.
docker-check:
	cd docker && $(GO) mod tidy -diff && $(GO) vet ./... && $(GO) test -count=1 -timeout 20m ./...
