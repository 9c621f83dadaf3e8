package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// target is what a contestant is pointed at.
type target struct {
	database, slot, topic string // topic: the whole name of the only topic
	// types are the types of events, if there are several: topic then ends in each of them
	// instead of "placed".
	types   []string
	events  int
	distant bool // behind the bench's line
	// brokers to use in place of the bench's; nil for none.
	brokers []string
}

// prefix is the name of a topic without the type of its events.
func (t target) prefix() string { return strings.TrimSuffix(t.topic, "placed") }

func (t target) topics() (names []string) {
	for _, kind := range t.types {
		names = append(names, t.prefix()+kind)
	}
	if names == nil {
		names = []string{t.topic}
	}
	return names
}

// result is one run.
type result struct {
	whole, secondHalf time.Duration // to the last record; the last half of the records
	first             time.Duration // to the first record
	cpu               time.Duration // of the contestant
	walsender         time.Duration // CPU of the server process that decodes
	rss               int64         // bytes
	broker            time.Duration // CPU of Kafka meanwhile
	brokerSecondHalf  time.Duration // and in the second half
	batches           int           // that Kafka has stored
	reads, segments   int           // of the replication connection, where a reader counts them
	pause             time.Duration // the longest without progress, after the first record; 0 with many partitions
}

// catchUp lets every contestant drain the same rows, in turns.
func catchUp(ctx context.Context, b *bench, s scenario) error {
	database, conn, err := b.outbox(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	contestants := s.who(b)
	base := database + "_base"
	if _, err := conn.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", base); err != nil {
		return err
	}
	slots := []string{base}
	defer func() { dropSlots(context.WithoutCancel(ctx), conn, slots) }()
	// Every run has a slot of its own, also those that warm up.
	name := func(contestant, run int) string { return fmt.Sprintf("%s_%d_%d", database, contestant, run) }
	for i := range contestants {
		for r := range b.runs {
			slots = append(slots, name(i, r))
		}
	}
	if !b.warm {
		for r := range warmUps {
			slots = append(slots, name(0, b.runs+r))
		}
	}
	for _, slot := range slots[1:] {
		if _, err := conn.Exec(ctx, "SELECT pg_copy_logical_replication_slot($1, $2)", base, slot); err != nil {
			return err
		}
	}
	events, err := s.fill(ctx, conn, b.events)
	if err != nil {
		return err
	}
	b.printf("\n## %s: %d events\n\n", s.title, events)

	to := func(contestant, run int) target {
		slot := name(contestant, run)
		t := target{database: database, slot: slot, topic: slot + ".placed", events: events, distant: s.roundTrip > 0}
		for i := range s.types {
			t.types = append(t.types, fmt.Sprintf("type%d", i))
		}
		return t
	}
	if !b.warm {
		if err := b.warmUp(func(n int) error {
			_, err := b.drain(ctx, s, contestants[0], to(0, b.runs+n))
			return err
		}); err != nil {
			return err
		}
		b.warm = true
	}
	results, err := inTurns(b, contestants, func(c contestant, i, r int) (result, string, error) {
		res, err := b.drain(ctx, s, c, to(i, r))
		if err == nil && s.after != nil {
			err = s.after(res)
		}
		return res, res.line(events), err
	})
	if err != nil {
		return err
	}
	return b.show(s, summaries(contestants, results, events))
}

// warmUps is how often the broker is warmed up, at most.
const warmUps = 5

// warmUp runs something until it costs the broker hardly less than the last time:
// its code is compiled in its first minutes, which takes half a processor and more.
// That is not the contestants'.
func (b *bench) warmUp(run func(n int) error) error {
	last := time.Duration(math.MaxInt64)
	for n := range warmUps {
		before := b.brokerCPU()
		if err := run(n); err != nil {
			return fmt.Errorf("warm-up: %w", err)
		}
		cost := b.brokerCPU() - before
		if cost > last-last/8 {
			break
		}
		last = cost
	}
	return nil
}

// inTurns runs every contestant as often as the bench is to, prints a line for each
// run, and returns the results by contestant. Each round begins with another: who
// comes after one that leaves much to tidy up for the servers is at a disadvantage.
func inTurns[R any](b *bench, contestants []contestant, run func(c contestant, i, r int) (R, string, error)) ([][]R, error) {
	results := make([][]R, len(contestants))
	for r := range b.runs {
		for n := range contestants {
			i := (n + r) % len(contestants)
			before := machineTime()
			res, line, err := run(contestants[i], i, r)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", contestants[i].name, err)
			}
			results[i] = append(results[i], res)
			b.printf("run %d  %-34s %s  (%s)\n", r+1, contestants[i].name, line, before.conditions())
		}
	}
	return results, nil
}

// drain lets a contestant fill topics that exist only meanwhile.
func (b *bench) drain(ctx context.Context, s scenario, c contestant, t target) (result, error) {
	if err := b.createTopics(ctx, s, t.topics()...); err != nil {
		return result{}, err
	}
	before := b.brokerCPU()
	res, err := c.run(ctx, b, t)
	if err != nil {
		return res, err
	}
	res.broker = b.brokerCPU() - before
	for _, topic := range t.topics() {
		n, err := storedBatches(b.kafka.DataDir(0), topic)
		if err != nil {
			return res, err
		}
		res.batches += n
	}
	return res, b.deleteTopics(ctx, t.topics()...)
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

// partitions of a topic, unless the scenario says otherwise.
const partitions = 3

func (b *bench) createTopic(ctx context.Context, topic string) error {
	return b.createTopics(ctx, scenario{fresh: true}, topic)
}

// createTopics makes a scenario's topics, and waits until all of their partitions have
// leaders, unless they are to be fresh.
func (b *bench) createTopics(ctx context.Context, s scenario, topics ...string) error {
	client, err := b.client()
	if err != nil {
		return err
	}
	defer client.Close()
	n := partitions
	if s.partitions > 0 {
		n = s.partitions
	}
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopics(ctx, int32(n), 1, nil, topics...); err != nil || s.fresh {
		return err
	}
	for ctx.Err() == nil {
		ends, err := admin.ListEndOffsets(ctx, topics...)
		led := 0
		ends.Each(func(o kadm.ListedOffset) {
			if o.Err == nil {
				led++
			}
		})
		if err == nil && led == n*len(topics) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return ctx.Err()
}

func (b *bench) deleteTopics(ctx context.Context, topics ...string) error {
	client, err := b.client()
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = kadm.NewClient(client).DeleteTopics(ctx, topics...)
	return err
}

// arrival watches the topics fill up. Records of transactions have markers among
// them, one a transaction and partition: too few to count. Each look costs the broker CPU
// time that grows with the partitions, and is not the contestants': with many there are
// fewer, until half or all of the records are nearly there.
func (b *bench) arrival(ctx context.Context, t target, started time.Time) (res result, err error) {
	client, err := b.client()
	if err != nil {
		return res, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	var half, halfBroker time.Duration
	seen, changed := int64(0), time.Now()
	topics := t.topics()
	for {
		// A topic just made has no leader yet.
		n, looked := seen, 0
		ends, err := admin.ListEndOffsets(ctx, topics...)
		if err == nil {
			n = 0
			ends.Each(func(o kadm.ListedOffset) { n, looked = n+max(o.Offset, 0), looked+1 })
		}
		since := time.Since(started)
		if n > 0 && res.first == 0 {
			res.first = since
		}
		if n >= int64(t.events)/2 && half == 0 {
			half, halfBroker = since, b.brokerCPU()
		}
		if n >= int64(t.events) {
			res.whole, res.secondHalf, res.brokerSecondHalf = since, since-half, b.brokerCPU()-halfBroker
			return res, nil
		}
		if n > seen {
			if seen > 0 && looked <= fewPartitions {
				res.pause = max(res.pause, time.Since(changed))
			}
			seen, changed = n, time.Now()
		} else if time.Since(changed) > time.Minute {
			return res, errors.Join(fmt.Errorf("nothing arrives any more after %d records", n), err)
		}
		select {
		case <-ctx.Done():
			return res, ctx.Err()
		case <-time.After(nextLook(n, int64(t.events), since-res.first, looked)):
		}
	}
}

// fewPartitions cost little to look at.
const fewPartitions = 20

// nextLook is how long to wait before the next look at so many partitions, after n of all
// records in so much time.
func nextLook(n, all int64, took time.Duration, partitions int) time.Duration {
	const soon, late = 20 * time.Millisecond, 500 * time.Millisecond
	if partitions <= fewPartitions || n <= 0 {
		return soon
	}
	left := all - n
	if n < all/2 {
		left = all/2 - n
	}
	return min(max(time.Duration(float64(took)*float64(left)/float64(n)/2), soon), late)
}

// walsender returns the CPU time that the slot's server process has used.
func (b *bench) walsender(ctx context.Context, slot string) time.Duration {
	pid, err := b.postgres.QueryValue(ctx, "postgres", "SELECT coalesce(active_pid, 0)::text FROM pg_replication_slots WHERE slot_name = '"+slot+"'")
	if err != nil || pid == "0" {
		return 0
	}
	return processCPU(pid)
}

func (b *bench) brokerCPU() time.Duration { return processCPU(strconv.Itoa(b.kafka.PID(0))) }

// storedBatches counts a topic's record batches in Kafka's files: each begins with
// its base offset (8 bytes) and the length of the rest (4 bytes), see "Record
// Batch" in Kafka's documentation.
func storedBatches(dataDir, topic string) (n int, err error) {
	segments, err := filepath.Glob(filepath.Join(dataDir, topic+"-*", "*.log"))
	if err != nil {
		return 0, err
	}
	for _, name := range segments {
		f, err := os.Open(name)
		if err != nil {
			return 0, err
		}
		var head [12]byte
		for at := int64(0); ; n++ {
			if _, err = f.ReadAt(head[:], at); err != nil {
				break
			}
			at += int64(len(head)) + int64(binary.BigEndian.Uint32(head[8:]))
		}
		f.Close()
		if err != io.EOF {
			return 0, err
		}
	}
	return n, nil
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(b))[0]
}

// busy is the machine's processor time since its start, and what of it a
// hypervisor gave to other machines (proc_stat(5)).
type busy struct{ all, stolen float64 }

func machineTime() (t busy) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for i, field := range strings.Fields(line)[1:] {
		n, _ := strconv.ParseFloat(field, 64)
		if i < 8 { // what follows is in user time already
			t.all += n
		}
		if i == 7 {
			t.stolen = n
		}
	}
	return t
}

// conditions says how disturbed a run was.
func (before busy) conditions() string {
	now := machineTime()
	return fmt.Sprintf("load %s, %.0f%% stolen", loadAverage(), 100*(now.stolen-before.stolen)/max(1, now.all-before.all))
}
