package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	latencyWarmUp = 3 * time.Second
	latencyTime   = 20 * time.Second
)

// spread are percentiles of the time from a commit, as PostgreSQL stamped it,
// to the event's arrival at a consumer.
type spread struct {
	p50, p99, max time.Duration
	cpu           time.Duration // of the contestant, a minute
	broker        time.Duration // CPU time of the broker, a minute
	rate          float64       // events a second that were really written
	others        float64       // records a second that are not events
}

func (s spread) line() string {
	return fmt.Sprintf("p50 %6.2f ms  p99 %7.2f ms  max %7.1f ms  CPU %5.1f s/min  at %.0f/s", ms(s.p50), ms(s.p99), ms(s.max), s.cpu.Seconds(), s.rate)
}

// latency measures a steady load of so many events a second.
func latency(rate int) func(context.Context, *bench, scenario) error {
	return func(ctx context.Context, b *bench, s scenario) error {
		b.printf("\n## %s\n\n", s.title)
		contestants := slices.DeleteFunc(s.who(b), func(c contestant) bool { return c.start == nil })
		if err := b.warmUp(func(int) error {
			_, err := b.latencyRun(ctx, contestants[0], rate, s.rowsPerTx)
			return err
		}); err != nil {
			return err
		}
		results, err := inTurns(b, contestants, func(c contestant, _, _ int) (spread, string, error) {
			res, err := b.latencyRun(ctx, c, rate, s.rowsPerTx)
			return res, res.line(), err
		})
		if err != nil {
			return err
		}
		panels := []panel{{title: "median, ms"}, {title: "99th percentile, ms"}, {title: "CPU seconds a minute"}}
		b.printf("\n| contestant | p50 | p99 (min–max) | CPU s a minute |\n|---|---|---|---|\n")
		for i, c := range contestants {
			of := func(f func(spread) time.Duration) (values []time.Duration) {
				for _, r := range results[i] {
					values = append(values, f(r))
				}
				return values
			}
			p99 := of(func(r spread) time.Duration { return r.p99 })
			p50, cpu := ms(median(of(func(r spread) time.Duration { return r.p50 }))), median(of(func(r spread) time.Duration { return r.cpu })).Seconds()
			b.printf("| %s | %.2f ms | %.2f ms (%.2f–%.2f) | %.1f |\n", c.name, p50, ms(median(p99)), ms(slices.Min(p99)), ms(slices.Max(p99)), cpu)
			for j, v := range []float64{p50, ms(median(p99)), cpu} {
				panels[j].bars = append(panels[j].bars, bar{c.name, v})
			}
		}
		if b.out == "" {
			return nil
		}
		return writePlot(filepath.Join(b.out, s.name+".svg"), s.title, panels)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// trickle writes transactions of so many rows at a steady pace, in rows a second.
// The payload is large enough to be an event.
const trickle = `CREATE PROCEDURE trickle(rate float, rows int, seconds float) LANGUAGE plpgsql AS $$
	DECLARE started timestamptz := clock_timestamp(); n int := 0; ahead float;
	BEGIN
	  WHILE n < rate * seconds LOOP
	    INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
	      SELECT 'order', 'order-' || i % 1000, 'placed', jsonb_build_object('n', i, 'text', repeat('x', 240))
	      FROM generate_series(n, n + rows - 1) i;
	    COMMIT;
	    n := n + rows;
	    ahead := n / rate - extract(epoch FROM clock_timestamp() - started);
	    IF ahead > 0.0005 THEN PERFORM pg_sleep(ahead); END IF;
	  END LOOP;
	END $$`

func (b *bench) latencyRun(ctx context.Context, c contestant, rate, rowsPerTx int) (res spread, err error) {
	database, conn, err := b.outbox(ctx)
	if err != nil {
		return res, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, trickle); err != nil {
		return res, err
	}
	t := target{database: database, slot: database, topic: database + ".placed", events: 1 << 62}
	if _, err := conn.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", t.slot); err != nil {
		return res, err
	}
	defer dropSlots(context.WithoutCancel(ctx), conn, []string{t.slot})
	if err := b.createTopic(ctx, t.topic); err != nil {
		return res, err
	}
	running, err := c.start(ctx, b, t)
	if err != nil {
		return res, err
	}
	arrivals, arrived, stop, err := b.watch(ctx, t.topic, int(float64(rate)*(latencyWarmUp+latencyTime).Seconds()))
	if err != nil {
		return res, err
	}
	time.Sleep(2 * time.Second)

	// Several writers at a high rate: one session commits some thousands a
	// second at most.
	writers := max(1, rate/rowsPerTx/5000)
	recordsBefore, err := b.records(ctx, t.topic)
	if err != nil {
		return res, err
	}
	brokerBefore, before, started := b.brokerCPU(), running.CPU(), time.Now()
	var work sync.WaitGroup
	failed := make(chan error, writers)
	for range writers {
		work.Go(func() {
			w, err := pgx.Connect(ctx, b.postgres.DSN(database))
			if err == nil {
				defer w.Close(context.WithoutCancel(ctx))
				_, err = w.Exec(ctx, fmt.Sprintf("CALL trickle(%d, %d, %f)", rate/writers, rowsPerTx, (latencyWarmUp+latencyTime).Seconds()))
			}
			failed <- err
		})
	}
	work.Wait()
	for range writers {
		if err := <-failed; err != nil {
			return res, err
		}
	}
	took := time.Since(started)
	res.cpu = time.Duration(float64(running.CPU()-before) / took.Seconds() * 60)
	res.broker = time.Duration(float64(b.brokerCPU()-brokerBefore) / took.Seconds() * 60)
	var written int64
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM outbox").Scan(&written); err != nil {
		return res, err
	}
	for deadline := time.Now().Add(time.Minute); arrived.Load() < written && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	records, err := b.records(ctx, t.topic)
	if err != nil {
		return res, err
	}
	res.others = float64(records-recordsBefore-arrived.Load()) / took.Seconds()
	if err := running.Stop(); err != nil {
		return res, err
	}
	stop()
	times, err := conn.Query(ctx, `SELECT id, pg_xact_commit_timestamp(xmin) FROM outbox`)
	if err != nil {
		return res, err
	}
	var id pgtype.UUID
	var committed time.Time
	var delays []time.Duration
	missing, total := 0, 0
	if _, err := pgx.ForEachRow(times, []any{&id, &committed}, func() error {
		total++
		at, ok := arrivals[id.Bytes]
		if !ok {
			missing++
		} else if committed.After(started.Add(latencyWarmUp)) {
			delays = append(delays, time.Unix(0, at).Sub(committed))
		}
		return nil
	}); err != nil {
		return res, err
	}
	if missing > 0 || len(delays) == 0 {
		return res, fmt.Errorf("%d of %d events did not arrive in time", missing, total)
	}
	slices.Sort(delays)
	res.p50, res.p99, res.max = delays[len(delays)/2], delays[len(delays)*99/100], delays[len(delays)-1]
	res.rate = float64(total) / took.Seconds()
	return res, nil
}

// arrivals are the times of arrival in Unix nanoseconds by event id. There is
// nothing in it that the collector would have to follow: it must not take the
// processors from those who are measured.
type arrivals map[[16]byte]int64

// watch consumes a topic of so many events, counts those that arrive, and notes
// when. The map may be read after stop.
func (b *bench) watch(ctx context.Context, topic string, events int) (seen arrivals, arrived *atomic.Int64, stop func(), err error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.kafka.Brokers()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return nil, nil, nil, err
	}
	seen, arrived = make(arrivals, events), new(atomic.Int64)
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			fetches := client.PollFetches(ctx)
			now := time.Now().UnixNano()
			fetches.EachRecord(func(r *kgo.Record) {
				var id pgtype.UUID
				for _, h := range r.Headers {
					if h.Key == "id" && id.Scan(string(h.Value)) == nil {
						if _, again := seen[id.Bytes]; !again {
							seen[id.Bytes] = now
							arrived.Add(1)
						}
					}
				}
			})
		}
	})
	return seen, arrived, func() {
		cancel()
		done.Wait()
		client.Close()
	}, nil
}
