package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"outboxd/internal/testbed"
)

// soak lengthens the scenarios that become more convincing by it; see the
// Makefile.
var soak = flag.Bool("soak", false, "run the long form of the scenarios that have one")

// binary is the connector under test, built once.
var binary string

// shared are the servers of the scenarios that do no harm to them.
var shared struct {
	sync.Mutex
	postgres *testbed.Postgres
	kafka    *testbed.Kafka
	registry *testbed.Registry
	connect  *testbed.Connect
}

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "outboxd-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "outboxd")
	var flags []string
	if raceEnabled {
		flags = append(flags, "-race")
	}
	if err := testbed.BuildOutboxd(context.Background(), binary, flags...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if shared.connect != nil {
			shared.connect.Close()
		}
		if shared.postgres != nil {
			shared.postgres.Close()
		}
		if shared.kafka != nil {
			shared.kafka.Close()
		}
		if shared.registry != nil {
			shared.registry.Close()
		}
	}()
	return m.Run()
}

// sharedPostgres returns the server for scenarios that leave it alive.
func sharedPostgres(t *testing.T) *testbed.Postgres {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.postgres == nil {
		p, err := testbed.StartPostgres(context.Background(), testbed.PostgresOptions{
			Settings: map[string]string{"max_connections": "300", "max_wal_senders": "60", "max_replication_slots": "60"},
		})
		if err != nil {
			t.Fatal(err)
		}
		shared.postgres = p
	}
	return shared.postgres
}

// sharedKafka returns the broker for scenarios that leave it alive.
func sharedKafka(t *testing.T) *testbed.Kafka {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.kafka == nil {
		k, err := testbed.StartKafka(context.Background(), testbed.KafkaOptions{JVM: testbed.QuickJVM, Settings: map[string]string{
			// Transactions that took too long are looked for every ten seconds by
			// default.
			"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
			// Half a minute after its start a broker looks for what is older than a week,
			// by the records' own times, which some scenarios take from a column.
			"log.retention.ms": "-1",
		}})
		if err != nil {
			t.Fatal(err)
		}
		shared.kafka = k
	}
	return shared.kafka
}

// ownPostgres starts a server that the scenario may harm.
func ownPostgres(t *testing.T, o testbed.PostgresOptions) *testbed.Postgres {
	t.Helper()
	p, err := testbed.StartPostgres(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// ownKafka starts brokers that the scenario may harm.
func ownKafka(t *testing.T, o testbed.KafkaOptions) *testbed.Kafka {
	t.Helper()
	// A broker's peak comes after a minute, and costs as much as all else of it until then.
	o.JVM = append(slices.Clone(testbed.QuickJVM), o.JVM...)
	k, err := testbed.StartKafka(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}
