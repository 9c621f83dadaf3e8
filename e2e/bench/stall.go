package main

import (
	"context"
	"fmt"
	"time"
)

const (
	stallTime = 20 * time.Second
	// An event is late that takes longer than that: until none is, a contestant has not
	// caught up.
	stallLate = 100 * time.Millisecond
)

// recovery is how a contestant delivers again after Kafka was away.
type recovery struct {
	first    time.Duration // from Kafka's return to the first record
	caughtUp time.Duration // to the last record that was late
	asked    asked         // while Kafka was away
}

// stalls measures from Kafka's return to the first event and to being caught up.
func stalls(ctx context.Context, b *bench, s scenario) error {
	b.printf("\n## %s\n\n", s.title)
	f, err := startFailing(ctx, 1)
	if err != nil {
		return err
	}
	defer f.close()
	ways := []struct {
		name          string
		leads         bool // it is back when it leads its partitions again
		away, return_ func(context.Context) error
	}{
		{"suspended", false, func(context.Context) error { return f.Pause(0) }, func(context.Context) error { return f.Resume(0) }},
		{"killed and started", true, func(context.Context) error { return f.Kill(0) }, func(ctx context.Context) error { return f.Start(ctx, 0) }},
	}
	contestants := s.who(b)
	for _, way := range ways {
		results, err := inTurns(b, contestants, func(c contestant, _, _ int) (r recovery, line string, err error) {
			var gone, returned time.Time
			run, records, err := b.steady(ctx, f, c, partitions, func(ctx context.Context, _ *steadyRun) error {
				gone = time.Now()
				before := f.asked.count()
				if err := way.away(ctx); err != nil {
					return err
				}
				time.Sleep(stallTime)
				returned, r.asked = time.Now(), f.asked.since(before)
				if err := way.return_(ctx); err != nil {
					return err
				}
				time.Sleep(10 * time.Second)
				return nil
			})
			if err != nil {
				return r, "", err
			}
			back := returned // a broker that was suspended is back at once
			for _, change := range run.changes {
				if way.leads && change.leader >= 0 && change.at.After(returned) {
					back = change.at
					break
				}
			}
			for _, record := range records {
				// What the broker had read before it was suspended, it writes on its return.
				if record.at.Before(returned) || record.committed.Before(gone) {
					continue
				}
				since := max(record.at.Sub(back), 0)
				if r.first == 0 {
					r.first = max(since, time.Millisecond)
				}
				if record.at.Sub(record.committed) > stallLate {
					r.caughtUp = since
				}
			}
			return r, fmt.Sprintf("%s: first record after %d ms, caught up after %d ms; %d requests for metadata and %d connections refused while it was away",
				way.name, r.first.Milliseconds(), r.caughtUp.Milliseconds(), r.asked.metadata, r.asked.refused), nil
		})
		if err != nil {
			return err
		}
		b.printf("\n| contestant | Kafka was | first record, median | caught up, median | metadata requests while it was away | connections refused |\n|---|---|---|---|---|---|\n")
		for i, c := range contestants {
			var first, caughtUp []time.Duration
			var requests, refused []int64
			for _, r := range results[i] {
				first, caughtUp = append(first, r.first), append(caughtUp, r.caughtUp)
				requests, refused = append(requests, r.asked.metadata), append(refused, r.asked.refused)
			}
			b.printf("| %s | %s | %.0f ms | %.0f ms | %d | %d |\n", c.name, way.name, ms(median(first)), ms(median(caughtUp)), median(requests), median(refused))
		}
		b.printf("\n")
	}
	return nil
}
