package main

import (
	"context"
	"time"

	"outboxd/e2e/bench/debezium"
)

// debeziumContestants are the real Debezium on Kafka Connect, as an expert would
// tune it, for throughput or for latency, and as it comes. Its rate counts from its first record: the JVM's start is not held
// against it.
func debeziumContestants() []contestant {
	return []contestant{
		{"Debezium 3.7, tuned", runDebezium(debezium.TunedThroughput()), startDebezium(debezium.TunedLatency())},
		{"Debezium 3.7, defaults", runDebezium(debezium.Default()), startDebezium(debezium.Default())},
	}
}

func (b *bench) debeziumOptions(t target, profile debezium.Profile) debezium.Options {
	return debezium.Options{
		DSN: b.postgres.DSN(t.database), Brokers: b.kafka.Brokers(), Profile: profile,
		Slot: t.slot, Publication: "outboxd", RouteBy: "type", TopicPrefix: t.prefix(), Heap: "512m",
	}
}

func runDebezium(profile debezium.Profile) func(context.Context, *bench, target) (result, error) {
	return func(ctx context.Context, b *bench, t target) (res result, err error) {
		o := b.debeziumOptions(t, profile)
		o.Drained = func() { res.walsender = b.walsender(ctx, t.slot) }
		r, err := debezium.CatchUp(ctx, o, int64(t.events))
		if err != nil {
			return res, err
		}
		res.whole = time.Duration(float64(t.events) / r.Rate * float64(time.Second))
		res.secondHalf = time.Duration(float64(t.events) / 2 / r.SecondHalf * float64(time.Second))
		res.first = r.First
		res.cpu = time.Duration(r.CPUPerMillion * float64(t.events) / 1e6 * float64(time.Second))
		res.rss = r.PeakRSS
		return res, nil
	}
}

func startDebezium(profile debezium.Profile) func(context.Context, *bench, target) (runner, error) {
	return func(ctx context.Context, b *bench, t target) (runner, error) {
		c, err := debezium.Start(ctx, b.debeziumOptions(t, profile))
		if err != nil {
			return nil, err
		}
		return worker{c}, nil
	}
}

// worker is a Kafka Connect worker with Debezium.
type worker struct{ connect *debezium.Connect }

func (w worker) CPU() time.Duration {
	seconds, err := w.connect.CPUSeconds()
	if err != nil {
		return 0 // it has ended; the run finds that out by itself
	}
	return time.Duration(seconds * float64(time.Second))
}

func (w worker) Stop() error {
	w.connect.Close()
	return nil
}
