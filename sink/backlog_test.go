package sink

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"outboxd/internal/record"
)

// traffic makes a backlog believe that so many events a second were sent up to now,
// none of them late.
func traffic(b *backlog, rate int, now time.Time) {
	b.since, b.events = now.Add(-heavyWindow), rate*int(heavyWindow/time.Millisecond)/1000+1
	b.wait(now, now)
}

func TestBacklogWaits(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		name     string
		rate     int
		lateness time.Duration
		want     time.Duration
	}{
		{"light traffic", 9_000, time.Hour, 0},
		{"heavy traffic in time", 50_000, 49 * time.Millisecond, 0},
		{"late", 50_000, 160 * time.Millisecond, 10 * time.Millisecond},
		{"a backlog", 11_000, time.Hour, 50 * time.Millisecond},
		{"from the future", 50_000, -time.Hour, 0},
		{"of no time", 50_000, now.Sub(time.Time{}), 50 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := new(backlog)
			traffic(b, test.rate, now)
			if got := b.wait(now.Add(-test.lateness), now); got != test.want {
				t.Errorf("waits %s, want %s", got, test.want)
			}
			now := now.Add(heavyWindow)
			b.wait(now, now)
			if got := b.wait(now.Add(-time.Hour), now); got != 0 {
				t.Errorf("waits %s after a window without traffic", got)
			}
		})
	}
}

// What waits goes to the client in order: when its time has come, when there is
// enough of it, and never behind what comes later.
func TestBacklogKeepsTheOrder(t *testing.T) {
	produced := make(chan *Delivery, 100)
	var b backlog
	b.init(func(d *Delivery) { produced <- d }, 10*overhead)
	b.delays = new(atomic.Int64)
	traffic(&b, 50_000, time.Now())
	event := func(lateness time.Duration) *Delivery {
		return &Delivery{Record: record.Record{CommittedAt: time.Now().Add(-lateness)}}
	}
	var sent []*Delivery
	send := func(lateness ...time.Duration) {
		for _, l := range lateness {
			d := event(l)
			sent = append(sent, d)
			b.since = time.Now() // the traffic stays as it is
			b.send(d)
		}
	}
	arrived := func(n int) {
		t.Helper()
		for i, d := range sent[:n] {
			select {
			case got := <-produced:
				if got != d {
					t.Fatalf("number %d is not the one that was sent", i)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("number %d does not come", i)
			}
		}
		sent = sent[n:]
	}

	send(0, 0)
	if n := b.delays.Load(); len(produced) != 2 || n != 0 {
		t.Fatalf("%d of 2 events in time go at once, %d are counted as delayed", len(produced), n)
	}
	arrived(2)
	// The timer may end the waiting sooner where the process stands still.
	began := time.Now()
	send(time.Hour, time.Hour, 0)
	if n, took := len(produced), time.Since(began); n > 0 && took < waitLimit {
		t.Fatalf("%d of 3 late events are gone after %s", n, took)
	}
	arrived(3)
	began = time.Now()
	send(slices.Repeat([]time.Duration{time.Hour}, 10)...)
	if n, took := len(produced), time.Since(began); n != 10 && took < waitLimit {
		t.Fatalf("at the limit %d of 10 events are gone", n)
	}
	arrived(10)
	if n := b.delays.Load(); n != 13 {
		t.Errorf("%d events are counted as delayed, want 13", n)
	}
}

// Without a limit of bytes no event waits.
func TestBacklogOff(t *testing.T) {
	produced := 0
	var b backlog
	b.init(func(*Delivery) { produced++ }, 0)
	b.delays = new(atomic.Int64)
	traffic(&b, 50_000, time.Now())
	for range 10 {
		b.send(&Delivery{Record: record.Record{CommittedAt: time.Now().Add(-time.Hour)}})
	}
	if n := b.delays.Load(); produced != 10 || n != 0 {
		t.Errorf("%d of 10 late events go at once, %d are counted as delayed", produced, n)
	}
}

func TestBacklogStops(t *testing.T) {
	var b backlog
	b.init(func(*Delivery) { t.Error("produced after the stop") }, 1<<20)
	traffic(&b, 50_000, time.Now())
	d := &Delivery{Record: record.Record{CommittedAt: time.Now().Add(-time.Hour)}}
	b.send(d)
	var discarded []*Delivery
	b.stop(func(d *Delivery) { discarded = append(discarded, d) })
	if !slices.Equal(discarded, []*Delivery{d}) {
		t.Errorf("%d events are given back, want the one that waited", len(discarded))
	}
	time.Sleep(2 * waitLimit)
}
