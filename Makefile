# make demo   a PostgreSQL with an outbox, a writer, outboxd and a broker; events as they arrive
# make test   everything: lint, unit, race, and e2e against real servers
# make soak   the long scenarios
# make bench  measures, beside a bare reader; make bench-debezium, beside Debezium
#
# Servers that are not on the machine are fetched into a cache outside the
# repository (OUTBOXD_CACHE, see internal/testbed).

GO      ?= go
VERSION ?= dev
COMMIT  := $(shell git rev-parse --short HEAD 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

.PHONY: build demo setup lint test unit race e2e soak bench bench-debezium clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/outboxd ./cmd/outboxd

demo:
	@$(GO) run ./e2e/demo

# What the tests need, fetched ahead so that no test waits for it.
setup:
	$(GO) run ./e2e/setup

lint:
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "gofmt -w these files:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

test: setup lint race e2e

unit:
	$(GO) test $$($(GO) list ./... | grep -v /e2e)

# The unit tests, under the race detector.
race:
	$(GO) test -race $$($(GO) list ./... | grep -v /e2e)

e2e:
	$(GO) test -count=1 -timeout 45m ./e2e/...

soak:
	$(GO) test -count=1 -timeout 3h ./e2e -soak

bench:
	$(GO) run ./e2e/bench

bench-debezium:
	$(GO) run ./e2e/bench -debezium

clean:
	rm -rf bin
