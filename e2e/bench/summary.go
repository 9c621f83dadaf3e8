package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

func (r result) line(events int) string {
	per := float64(events) / 1e6
	line := fmt.Sprintf("%8.0f events/s  second half %8.0f  first %4d ms  CPU %5.2f s/M  walsender %5.2f s/M  memory %4d MiB",
		float64(events)/r.whole.Seconds(), float64(events)/2/r.secondHalf.Seconds(), r.first.Milliseconds(),
		r.cpu.Seconds()/per, r.walsender.Seconds()/per, r.rss>>20)
	if r.batches > 0 {
		line += fmt.Sprintf("  Kafka %5.2f s/M, second half %5.2f, %4d records a batch", r.broker.Seconds()/per,
			r.brokerSecondHalf.Seconds()/per*2, events/r.batches)
	}
	if r.pause > 0 {
		line += fmt.Sprintf("  longest pause %4d ms", r.pause.Milliseconds())
	}
	if r.reads > 0 {
		line += fmt.Sprintf("  reads %7.0f/M  segments %7.0f/M", float64(r.reads)/per, float64(r.segments)/per)
	}
	return line
}

// summary is what several runs of a contestant came to: medians, and the spread
// of the rate.
type summary struct {
	name            string
	low, rate, high float64 // events a second
	half            float64 // of the second half
	first           time.Duration
	cpu, walsender  float64 // seconds a million events
	broker          float64 // as well
	brokerHalf      float64 // of the second half
	rss             int64   // bytes
	batch           float64 // records; all of them if no batch was counted
}

func summaries(contestants []contestant, results [][]result, events int) (all []summary) {
	n := float64(events)
	for i, c := range contestants {
		rs := results[i]
		rates := column(rs, func(r result) float64 { return n / r.whole.Seconds() })
		all = append(all, summary{
			name: c.name,
			low:  slices.Min(rates), rate: median(rates), high: slices.Max(rates),
			half:       median(column(rs, func(r result) float64 { return n / 2 / r.secondHalf.Seconds() })),
			first:      median(column(rs, func(r result) time.Duration { return r.first })),
			cpu:        median(column(rs, func(r result) float64 { return r.cpu.Seconds() / n * 1e6 })),
			walsender:  median(column(rs, func(r result) float64 { return r.walsender.Seconds() / n * 1e6 })),
			broker:     median(column(rs, func(r result) float64 { return r.broker.Seconds() / n * 1e6 })),
			brokerHalf: median(column(rs, func(r result) float64 { return r.brokerSecondHalf.Seconds() / n * 2e6 })),
			rss:        median(column(rs, func(r result) int64 { return r.rss })),
			batch:      median(column(rs, func(r result) float64 { return n / max(float64(r.batches), 1) })),
		})
	}
	return all
}

// show prints a table, and first how many times faster the first contestant is
// than each of the others, and draws a plot.
func (b *bench) show(s scenario, all []summary) error {
	b.printf("\n| ratio | contestant | events/s (min–max) | second half | first record | CPU s a million | walsender | Kafka | second half | records a batch | memory |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	for i, c := range all {
		ratio := "1"
		if i > 0 {
			ratio = fmt.Sprintf("%s is %.2f ×", all[0].name, all[0].rate/c.rate)
		}
		b.printf("| %s | %s | %.0f (%.0f–%.0f) | %.0f | %d ms | %.2f | %.2f | %.2f | %.2f | %.0f | %d MiB |\n", ratio, c.name, c.rate, c.low, c.high, c.half,
			c.first.Milliseconds(), c.cpu, c.walsender, c.broker, c.brokerHalf, c.batch, c.rss>>20)
	}
	if b.out == "" {
		return nil
	}
	return writePlot(filepath.Join(b.out, s.name+".svg"), s.title, []panel{
		{"events a second", summaryBars(all, func(s summary) float64 { return s.rate })},
		{"CPU seconds a million events", summaryBars(all, func(s summary) float64 { return s.cpu })},
		{"memory, MiB", summaryBars(all, func(s summary) float64 { return float64(s.rss >> 20) })},
	})
}

func summaryBars(all []summary, of func(summary) float64) (bars []bar) {
	for _, s := range all {
		bars = append(bars, bar{s.name, of(s)})
	}
	return bars
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
