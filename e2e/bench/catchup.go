package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// target is what a contestant is pointed at.
type target struct {
	database, slot, topic string // topic: the whole name of the only topic
	events                int
	extra                 string
}

// result is one run.
type result struct {
	whole, secondHalf time.Duration // to the last record; the last half of the records
	first             time.Duration // to the first record
	cpu               time.Duration // of the contestant
	walsender         time.Duration // CPU of the server process that decodes
	rss               int64         // bytes
}

// catchUp lets every contestant drain the same rows, in turns.
func catchUp(ctx context.Context, b *bench, s scenario) error {
	b.counter++
	database := fmt.Sprintf("bench%d", b.counter)
	conn, err := b.outbox(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	contestants := b.contestants()
	base := database + "_base"
	if _, err := conn.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", base); err != nil {
		return err
	}
	var slots []string
	for i := range contestants {
		for r := range b.runs {
			slot := fmt.Sprintf("%s_%d_%d", database, i, r)
			slots = append(slots, slot)
			if _, err := conn.Exec(ctx, "SELECT pg_copy_logical_replication_slot($1, $2)", base, slot); err != nil {
				return err
			}
		}
	}
	defer dropSlots(context.WithoutCancel(ctx), conn, append(slots, base))
	events, err := s.fill(ctx, conn, b.events)
	if err != nil {
		return err
	}
	fmt.Printf("\n## %s: %d events\n\n", s.title, events)

	results := make([][]result, len(contestants))
	for r := range b.runs {
		for i, c := range contestants {
			t := target{database: database, slot: slots[i*b.runs+r], events: events, extra: s.extra}
			prefix := fmt.Sprintf("%s.c%d.r%d", database, i, r)
			t.topic = prefix + ".placed"
			if err := b.createTopic(ctx, t.topic); err != nil {
				return err
			}
			res, err := c.run(ctx, b, t)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			results[i] = append(results[i], res)
			fmt.Printf("run %d  %-34s %s  (load %s)\n", r+1, c.name, res.line(events), loadAverage())
			if err := b.deleteTopic(ctx, t.topic); err != nil {
				return err
			}
		}
	}
	printTable(contestants, results, events)
	return nil
}

func dropSlots(ctx context.Context, conn *pgx.Conn, slots []string) {
	for _, slot := range slots {
		for range 50 {
			if _, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", slot); err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func (b *bench) client() (*kgo.Client, error) {
	return kgo.NewClient(kgo.SeedBrokers(b.kafka.Brokers()...), kgo.MetadataMinAge(10*time.Millisecond))
}

const partitions = 3

func (b *bench) createTopic(ctx context.Context, topic string) error {
	client, err := b.client()
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = kadm.NewClient(client).CreateTopic(ctx, partitions, 1, nil, topic)
	return err
}

func (b *bench) deleteTopic(ctx context.Context, topic string) error {
	client, err := b.client()
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = kadm.NewClient(client).DeleteTopic(ctx, topic)
	return err
}

// arrival watches a topic fill up.
func (b *bench) arrival(ctx context.Context, t target, started time.Time) (res result, err error) {
	client, err := b.client()
	if err != nil {
		return res, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	var half time.Duration
	seen, changed := int64(0), time.Now()
	for {
		ends, err := admin.ListEndOffsets(ctx, t.topic)
		if err != nil {
			return res, err
		}
		n := int64(0)
		ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
		since := time.Since(started)
		if n > 0 && res.first == 0 {
			res.first = since
		}
		if n >= int64(t.events)/2 && half == 0 {
			half = since
		}
		if n >= int64(t.events) {
			res.whole, res.secondHalf = since, since-half
			return res, nil
		}
		if n != seen {
			seen, changed = n, time.Now()
		} else if time.Since(changed) > time.Minute {
			return res, errors.New("nothing arrives any more")
		}
		select {
		case <-ctx.Done():
			return res, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// walsender returns the CPU time that the slot's server process has used.
func (b *bench) walsender(ctx context.Context, slot string) time.Duration {
	pid, err := b.postgres.QueryValue(ctx, "postgres", "SELECT coalesce(active_pid, 0)::text FROM pg_replication_slots WHERE slot_name = '"+slot+"'")
	if err != nil || pid == "0" {
		return 0
	}
	return processCPU(pid)
}

func (r result) line(events int) string {
	per := float64(events) / 1e6
	return fmt.Sprintf("%8.0f events/s  second half %8.0f  first %4d ms  CPU %5.2f s/M  walsender %5.2f s/M  memory %4d MiB",
		float64(events)/r.whole.Seconds(), float64(events)/2/r.secondHalf.Seconds(), r.first.Milliseconds(),
		r.cpu.Seconds()/per, r.walsender.Seconds()/per, r.rss>>20)
}

func median[T int64 | float64 | time.Duration](values []T) T {
	values = slices.Clone(values)
	slices.Sort(values)
	return values[len(values)/2]
}

func column[T any](rs []result, of func(result) T) []T {
	var out []T
	for _, r := range rs {
		out = append(out, of(r))
	}
	return out
}

// printTable prints medians and spread, and first how many times faster
// outboxd is than each of the others.
func printTable(contestants []contestant, results [][]result, events int) {
	rate := func(rs []result) (lo, mid, hi float64) {
		rates := column(rs, func(r result) float64 { return float64(events) / r.whole.Seconds() })
		return slices.Min(rates), median(rates), slices.Max(rates)
	}
	_, ours, _ := rate(results[0])
	per := float64(events) / 1e6
	fmt.Printf("\n| ratio | contestant | events/s (min–max) | second half | first record | CPU s a million | walsender | memory |\n|---|---|---|---|---|---|---|---|\n")
	for i, c := range contestants {
		lo, mid, hi := rate(results[i])
		half := median(column(results[i], func(r result) float64 { return float64(events) / 2 / r.secondHalf.Seconds() }))
		ratio := "1"
		if i > 0 {
			ratio = fmt.Sprintf("outboxd is %.2f ×", ours/mid)
		}
		fmt.Printf("| %s | %s | %.0f (%.0f–%.0f) | %.0f | %d ms | %.2f | %.2f | %d MiB |\n", ratio, c.name, mid, lo, hi, half,
			median(column(results[i], func(r result) time.Duration { return r.first })).Milliseconds(),
			median(column(results[i], func(r result) float64 { return r.cpu.Seconds() / per })),
			median(column(results[i], func(r result) float64 { return r.walsender.Seconds() / per })),
			median(column(results[i], func(r result) int64 { return r.rss }))>>20)
	}
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(b))[0]
}
