package main

import (
	"context"
	"fmt"
	"time"
)

// plain returns outboxd, and the bare reader that it is to be as fast as.
func (b *bench) plain() []contestant {
	return b.kept(append(b.binaries(), contestant{"bare reader, socket left full", runBare("-deliver", "-headers"), nil}))
}

// variants is a catch-up in several forms, which take from the scenario what they do not
// say themselves.
func variants(ctx context.Context, b *bench, s scenario) error {
	for _, form := range s.forms {
		form.name, form.contestants = s.name+"-"+form.name, s.contestants
		if form.rowsPerTx == 0 {
			form.rowsPerTx = s.rowsPerTx
		}
		if form.payload == 0 {
			form.payload = s.payload
		}
		if form.share == 0 {
			form.share = s.share
		}
		if err := catchUp(ctx, b, form); err != nil {
			return fmt.Errorf("%s: %w", form.title, err)
		}
	}
	return nil
}

// manyPartitions are topics of few to many partitions, with leaders before the clock
// starts, and just made.
var manyPartitions = []scenario{
	{name: "4", title: "catch-up, 4 partitions", partitions: 4},
	{name: "60", title: "catch-up, 60 partitions", partitions: 60},
	{name: "600", title: "catch-up, 600 partitions", partitions: 600},
	{name: "2400", title: "catch-up, 2,400 partitions", partitions: 2400},
	{name: "topics", title: "catch-up, 200 topics of 3 partitions, by type", types: 200},
	{name: "fresh-4", title: "catch-up, 4 partitions, the topic just made", partitions: 4, fresh: true},
	{name: "fresh-600", title: "catch-up, 600 partitions, the topic just made", partitions: 600, fresh: true},
	{name: "fresh-topics", title: "catch-up, 200 topics of 3 partitions, by type, just made", types: 200, fresh: true},
}

// payloads are of several sizes, of repeated text and of noise, as many as take about as
// long.
func payloads() (forms []scenario) {
	for _, size := range []int{300, 3_000, 30_000, 300_000, 1_000_000} {
		for _, random := range []bool{false, true} {
			kind := "repeated text"
			if random {
				kind = "noise"
			}
			forms = append(forms, scenario{
				name:  fmt.Sprintf("%d-%t", size, random),
				title: fmt.Sprintf("catch-up, payloads of %d bytes, %s", size, kind),
				// A transaction has 100 rows, or 1 MB.
				payload: size, random: random, rowsPerTx: max(1, min(100, 1_000_000/size)),
				share: min(0.3, 600/float64(size)),
			})
		}
	}
	return forms
}

// compressions returns outboxd and the bare reader with each codec.
func (b *bench) compressions() (all []contestant) {
	for _, codec := range []string{"none", "lz4", "zstd"} {
		all = append(all, b.binariesWith(", "+codec, "", "OUTBOXD_KAFKA_COMPRESSION="+codec)...)
		all = append(all, contestant{name: "bare reader, " + codec, run: runBare("-deliver", "-headers", "-compression", codec)})
	}
	return b.kept(all)
}

// pauseLimit is how long a catch-up may make no progress, once it has begun.
const pauseLimit = time.Second

// inARow is many catch-ups by outboxd, one after the other, each to a topic just made:
// none may pause for as long as pauseLimit.
func inARow(ctx context.Context, b *bench, s scenario) error {
	runs := b.runs
	defer func() { b.runs = runs }()
	b.runs = 40
	longest := time.Duration(0)
	s.after = func(r result) error {
		if longest = max(longest, r.pause); r.pause >= pauseLimit {
			return fmt.Errorf("nothing arrived for %s", r.pause)
		}
		return nil
	}
	if err := catchUp(ctx, b, s); err != nil {
		return err
	}
	b.printf("\nThe longest pause of %d catch-ups: %s.\n", b.runs, longest.Round(time.Millisecond))
	return nil
}
