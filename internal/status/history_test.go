package status

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// acked counts n events of a topic that took so long.
func acked(s *Status, topic string, n int, took time.Duration) {
	now := time.Now()
	for range n {
		s.Acked(topic, now.Add(-took), now)
	}
}

// The last hour is kept while the page is served, and no more than that.
func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(time.Minute)
		p := newPipes()
		ctx, stop := withStop(t)
		ended := make(chan error, 1)
		go func() { ended <- s.ServeWith(ctx, p, HTTP{}) }()
		synctest.Wait()
		if r := s.history.report(); len(r.Events) != 0 {
			t.Errorf("before the first sample: %+v", r)
		}
		for i := range samples + 10 {
			switch {
			case i%10 == 3:
				acked(s, "orders", 30, 40*time.Millisecond)
				acked(s, "orders", 1, 20*time.Second)
			case i%10 == 4:
				acked(s, "orders", 10, 700*time.Microsecond)
			}
			time.Sleep(sampleEvery)
			synctest.Wait()
		}
		r := s.history.report()
		if len(r.Events) != samples || len(r.P50) != samples || len(r.P99) != samples || r.EverySeconds != 10 || !r.Until.Equal(time.Now()) {
			t.Fatalf("%d samples, every %v s, until %s", len(r.Events), r.EverySeconds, r.Until)
		}
		for i := range samples {
			switch (i + 10) % 10 { // the first ten were overwritten
			case 3:
				if r.Events[i] != 3.1 || *r.P50[i] < .025 || *r.P50[i] > .05 || *r.P99[i] < 10 || *r.P99[i] > 30 {
					t.Errorf("sample %d: %v events, p50 %v, p99 %v", i, r.Events[i], *r.P50[i], *r.P99[i])
				}
			case 4:
				if r.Events[i] != 1 || *r.P50[i] < .0005 || *r.P50[i] > .001 {
					t.Errorf("sample %d: %v events, p50 %v", i, r.Events[i], *r.P50[i])
				}
			default:
				if r.Events[i] != 0 || r.P50[i] != nil || r.P99[i] != nil {
					t.Errorf("sample %d, without events: %v", i, r.Events[i])
				}
			}
		}
		if _, err := json.Marshal(r); err != nil {
			t.Error(err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestQuantile(t *testing.T) {
	of := func(counts ...uint64) totals {
		b := totals{count: counts[len(counts)-1]}
		for i, upTo := range []float64{1, 2, 4} {
			b.buckets = append(b.buckets, bucket{upTo, counts[i]})
		}
		return b
	}
	for _, test := range []struct {
		q           float64
		before, now totals
		want        float64
	}{
		{.5, totals{}, of(10, 10, 10, 10), .5},
		{.5, totals{}, of(0, 10, 10, 10), 1.5},
		{.99, totals{}, of(0, 0, 100, 100), 3.98},
		{.5, of(50, 50, 50, 50), of(50, 50, 60, 60), 3},
		{.99, totals{}, of(0, 0, 0, 10), 4}, // beyond all
		{.5, of(5, 5, 5, 5), of(5, 5, 5, 5), math.NaN()},
	} {
		if got := quantile(test.q, test.before, test.now); math.Abs(got-test.want) > 1e-9 && !(math.IsNaN(got) && math.IsNaN(test.want)) {
			t.Errorf("%v of %v after %v: %v, want %v", test.q, test.now, test.before, got, test.want)
		}
	}
}

// A topic's rate is that of the last minute; the busiest are named, the others counted.
func TestTopicRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(time.Minute)
		ctx, stop := withStop(t)
		done := make(chan struct{})
		go func() { defer close(done); s.keepHistory(ctx) }()
		synctest.Wait()
		acked(s, "old", 1000, time.Millisecond)
		time.Sleep(2 * time.Minute)
		for range 60 {
			acked(s, "busy", 20, time.Millisecond)
			acked(s, "calm", 1, time.Millisecond)
			time.Sleep(time.Second)
		}
		for i := range 60 {
			acked(s, fmt.Sprint("rare-", i), 1, time.Millisecond)
		}
		r := s.Report()
		if len(r.Topics) != maxTopicReports || r.MoreTopics != 13 || r.Published != 1000+1200+60+60 {
			t.Errorf("%d topics and %d more, %d events", len(r.Topics), r.MoreTopics, r.Published)
		}
		if b := r.Topics[0]; b.Topic != "busy" || b.Published != 1200 || b.PerSecond < 15 || b.PerSecond > 25 {
			t.Errorf("%+v", b)
		}
		if c := r.Topics[1]; c.Topic != "calm" || c.PerSecond < .8 || c.PerSecond > 1.2 {
			t.Errorf("%+v", c)
		}
		stop()
		<-done
	})
}

// The last errors are few, newest first, and one that comes again is counted.
func TestLastErrors(t *testing.T) {
	s := New(time.Minute)
	for i := range 20 {
		s.Fault("postgres", fmt.Errorf("fault %d", i))
	}
	for range 3 {
		s.Fault("kafka", fmt.Errorf("%01000000d", 0))
	}
	stalled := fmt.Errorf("no answer")
	for range 5 {
		s.Kafka(stalled) // the same state, looked at again
	}
	r := s.Report().LastErrors
	if len(r) != maxErrors || r[0].Error != "no answer" || r[0].Times != 1 || r[1].Side != "kafka" || r[1].Times != 3 || len(r[1].Error) != maxErrorText ||
		r[2].Error != "fault 19" || r[9].Error != "fault 12" {
		t.Errorf("%+v", r)
	}
}
