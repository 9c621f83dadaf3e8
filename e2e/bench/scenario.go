package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// scenario is a kind of traffic.
type scenario struct {
	name, title string
	apart       bool // only when -only names it
	run         func(context.Context, *bench, scenario) error
	rowsPerTx   int
	// A catch-up's rows.
	payload   int
	share     float64       // of -events
	foreign   int           // rows of another table for each event
	roundTrip time.Duration // of the line to PostgreSQL; 0 for none
	random    bool          // payloads that do not compress
	types     int           // of events, each with a topic of its own; 0 for one
	// partitions of each topic; 0 for the default. They have leaders before the clock starts,
	// unless the topics are fresh.
	partitions int
	fresh      bool
	// forms are those of a scenario that has several; -only takes their names, too.
	forms []scenario
	// after looks at each run of a catch-up; nil for nobody.
	after func(result) error
	// contestants; nil for all programs.
	contestants func(*bench) []contestant
}

func (s scenario) who(b *bench) []contestant {
	if s.contestants != nil {
		return s.contestants(b)
	}
	return b.contestants()
}

var scenarios = []scenario{
	{name: "hundred", title: "catch-up, 100-row transactions, 300-byte payloads", run: catchUp, rowsPerTx: 100, payload: 300, share: 1},
	{name: "one", title: "catch-up, one-row transactions, 300-byte payloads", run: catchUp, rowsPerTx: 1, payload: 300, share: 1},
	{name: "large", title: "catch-up, one transaction", run: catchUp, rowsPerTx: 1 << 30, payload: 300, share: 0.5},
	{name: "wide", title: "catch-up, 100-row transactions, 2 KB payloads", run: catchUp, rowsPerTx: 100, payload: 2000, share: 0.3},
	{name: "foreign", title: "catch-up, the outbox is 1% of the rows written", run: catchUp, rowsPerTx: 10, payload: 300, share: 0.02, foreign: 99},
	{name: "distance", title: "catch-up, PostgreSQL some milliseconds away", run: distances, payload: 300, contestants: (*bench).distant},
	{name: "reading", title: "ways to read, one-row transactions, no Kafka", run: catchUp, rowsPerTx: 1, payload: 300, share: 0.3, contestants: (*bench).readers},
	{name: "formats", title: "catch-up, each form of value, 100-row transactions, 300-byte payloads", run: catchUp, rowsPerTx: 100, payload: 300, share: 1,
		contestants: (*bench).formats},
	{name: "guarantees", title: "catch-up, each guarantee, 100-row transactions, 300-byte payloads", run: catchUp, rowsPerTx: 100, payload: 300, share: 1,
		contestants: (*bench).guarantees},
	{name: "partitions", apart: true, title: "catch-up, few to many partitions", run: variants, forms: manyPartitions, rowsPerTx: 100, payload: 300, share: 0.5, contestants: (*bench).plain},
	{name: "oncepartitions", apart: true, title: "catch-up, 600 partitions, each guarantee", run: catchUp, rowsPerTx: 100, payload: 300, share: 0.5, partitions: 600,
		contestants: (*bench).guarantees},
	{name: "payloads", apart: true, title: "catch-up, small to large payloads", run: variants, forms: payloads(), share: 1, contestants: (*bench).plain},
	{name: "compression", apart: true, title: "catch-up, each codec, 100-row transactions, 300-byte payloads", run: catchUp, rowsPerTx: 100, payload: 300, share: 1,
		contestants: (*bench).compressions},
	{name: "zone", apart: true, title: "catch-up, Kafka some milliseconds away", run: zones, rowsPerTx: 100, payload: 300, share: 0.5, contestants: (*bench).plain},
	{name: "leaders", apart: true, title: "the longest time without delivery, three brokers, 1,000 events a second to 12 partitions", run: leaders, contestants: (*bench).steadies},
	{name: "stall", apart: true, title: "Kafka is away for 20 s, 1,000 events a second", run: stalls, contestants: (*bench).steadies},
	{name: "inarow", apart: true, title: "40 catch-ups in a row, 4 partitions, the topic just made", run: inARow, rowsPerTx: 100, payload: 300, share: 0.1, partitions: 4, fresh: true,
		contestants: (*bench).binaries},
	{name: "latency", title: "commit to consumed, 1,000 one-row transactions a second", run: latency(1000), rowsPerTx: 1},
	{name: "latencyonce", title: "commit to consumed, each guarantee, 1,000 one-row transactions a second", run: latency(1000), rowsPerTx: 1,
		contestants: (*bench).guarantees},
	{name: "oncecost", title: "commit to consumed, each guarantee, and what the broker pays, at several loads", run: onceCost,
		contestants: (*bench).guarantees},
	{name: "retention", title: "old rows are removed beside 1,000 one-row transactions a second", run: retention, rowsPerTx: 1000, payload: 300, share: 5},
	{name: "reconcile", title: "rows are compared with Kafka beside 1,000 one-row transactions a second", run: reconcile, rowsPerTx: 1000, payload: 300, share: 5},
	{name: "latency12k", title: "commit to consumed, 12,000 events a second in 10-row transactions", run: latency(12000), rowsPerTx: 10},
	{name: "latency20k", title: "commit to consumed, 20,000 events a second in 10-row transactions", run: latency(20000), rowsPerTx: 10},
}

func scenarioNames() []string {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return names
}

func chooseScenarios(only string) ([]scenario, error) {
	if only == "" {
		return slices.DeleteFunc(slices.Clone(scenarios), func(s scenario) bool { return s.apart }), nil
	}
	var chosen []scenario
	for name := range strings.SplitSeq(only, ",") {
		s, ok := scenarioNamed(name)
		if !ok {
			return nil, fmt.Errorf("no scenario %q; there are %s", name, strings.Join(scenarioNames(), ", "))
		}
		chosen = append(chosen, s)
	}
	return chosen, nil
}

// scenarioNamed finds a scenario, or one form of it by both of their names.
func scenarioNamed(name string) (scenario, bool) {
	for _, s := range scenarios {
		if s.name == name {
			return s, true
		}
		for _, form := range s.forms {
			if s.name+"-"+form.name == name {
				s.forms = []scenario{form}
				return s, true
			}
		}
	}
	return scenario{}, false
}

// outbox makes another database with an empty outbox, a table of other rows, the
// publication, and the function that fills both.
func (b *bench) outbox(ctx context.Context) (database string, conn *pgx.Conn, err error) {
	b.counter++
	database = fmt.Sprintf("bench%d", b.counter)
	if err := b.postgres.Exec(ctx, "postgres", "CREATE DATABASE "+database); err != nil {
		return "", nil, err
	}
	conn, err = pgx.Connect(ctx, b.postgres.DSN(database))
	if err != nil {
		return "", nil, err
	}
	_, err = conn.Exec(ctx, `
		CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb);
		CREATE TABLE business (id bigint, note text);
		CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert', publish_via_partition_root = true);
		CREATE FUNCTION noise(n bigint, size int) RETURNS text LANGUAGE sql AS $$
		  SELECT left(string_agg(translate(encode(sha512((n || '-' || k)::bytea), 'base64'), E'\n', ''), ''), size) FROM generate_series(1, size / 88 + 1) k
		$$;
		CREATE PROCEDURE fill(txs int, rows int, size int, other int, types int, random bool) LANGUAGE plpgsql AS $$
		BEGIN
		  FOR i IN 0 .. txs - 1 LOOP
		    INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
		    SELECT 'order', 'order-' || ((i::bigint * rows + j) * 7919 % 50000), CASE WHEN types > 1 THEN 'type' || (i::bigint * rows + j) % types ELSE 'placed' END,
		      jsonb_build_object('n', i::bigint * rows + j, 'amount', '12.50', 'text', CASE
		        WHEN random THEN noise(i::bigint * rows + j, greatest(size - 60, 1))
		        ELSE rpad('', greatest(size - 60, 1), md5((i::bigint * rows + j)::text) || md5((i + j)::text)) END)
		    FROM generate_series(1, rows) j;
		    IF other > 0 THEN
		      INSERT INTO business SELECT k, md5(k::text) FROM generate_series(1, rows * other) k;
		    END IF;
		    COMMIT;
		  END LOOP;
		END $$`)
	return database, conn, err
}

// fill writes the rows of a catch-up, behind slots that exist already, and
// returns their number.
func (s scenario) fill(ctx context.Context, conn *pgx.Conn, events int) (int, error) {
	n := int(float64(events) * s.share)
	rows := min(s.rowsPerTx, n)
	txs := n / rows
	_, err := conn.Exec(ctx, fmt.Sprintf("CALL fill(%d, %d, %d, %d, %d, %t)", txs, rows, s.payload, s.foreign, s.types, s.random))
	return txs * rows, err
}
