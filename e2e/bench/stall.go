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
	metadata int64         // requests, and connections refused, while Kafka was away
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
			var gone, asked time.Time
			run, records, err := b.steady(ctx, f, c, partitions, func(ctx context.Context, _ *steadyRun) error {
				gone, r.metadata = time.Now(), -f.metadata.Load()
				if err := way.away(ctx); err != nil {
					return err
				}
				time.Sleep(stallTime)
				asked, r.metadata = time.Now(), r.metadata+f.metadata.Load()
				if err := way.return_(ctx); err != nil {
					return err
				}
				time.Sleep(10 * time.Second)
				return nil
			})
			if err != nil {
				return r, "", err
			}
			back := asked // a broker that was suspended is back at once
			for _, change := range run.changes {
				if way.leads && change.leader >= 0 && change.at.After(asked) {
					back = change.at
					break
				}
			}
			for _, record := range records {
				// What the broker had read before it was suspended, it writes on its return.
				if record.at.Before(asked) || record.committed.Before(gone) {
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
			return r, fmt.Sprintf("%s: first record after %d ms, caught up after %d ms; %d requests for metadata or refused connections while it was away", way.name, r.first.Milliseconds(), r.caughtUp.Milliseconds(), r.metadata), nil
		})
		if err != nil {
			return err
		}
		b.printf("\n| contestant | Kafka was | first record, median | caught up, median | metadata requests, or connections refused, while it was away |\n|---|---|---|---|---|\n")
		for i, c := range contestants {
			var first, caughtUp []time.Duration
			var requests []int64
			for _, r := range results[i] {
				first, caughtUp, requests = append(first, r.first), append(caughtUp, r.caughtUp), append(requests, r.metadata)
			}
			b.printf("| %s | %s | %.0f ms | %.0f ms | %d |\n", c.name, way.name, ms(median(first)), ms(median(caughtUp)), median(requests))
		}
		b.printf("\n")
	}
	return nil
}
