package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/internal/walheld"
)

const mib = 1 << 20

// heldSlot is a slot of which WAL is kept before and behind its confirmed position.
func heldSlot(before, after int64, oldest *walheld.Transaction) Slot {
	f := walheld.Facts{Slot: "outboxd", Restart: 1000, Active: true, Oldest: oldest}
	f.Confirmed = f.Restart + pglogrepl.LSN(before)
	f.Written = f.Confirmed + pglogrepl.LSN(after)
	return Slot{Retained: before + after, Safe: -1, WALStatus: "reserved", Confirmed: f.Confirmed.String(), Held: f}
}

// The sentence is made of what the server said and what the process knows, and is the
// same in /status and the metric's cause.
func TestWhyWALIsHeld(t *testing.T) {
	batch := &walheld.Transaction{PID: "4711", Application: "batch", Since: time.Unix(1_700_000_000, 0), Open: time.Hour}
	waiting := *someGauges
	waiting.OldestUnacked = func() time.Duration { return time.Minute }
	waiting.UnackedTopics = func() []string { return []string{"orders", "payments"} }
	waiting.Busy = func() string { return "PostgreSQL decodes a large transaction" }
	idle := *someGauges
	idle.OldestUnacked = func() time.Duration { return 0 }
	for _, test := range []struct {
		name   string
		report func(*Status)
		slot   Slot
		cause  walheld.Cause
		text   string
	}{
		{"nothing", func(*Status) {}, heldSlot(10, 10, nil), walheld.CauseNothing, walheld.Nothing},
		{"transaction", func(*Status) {}, heldSlot(100*mib, 10, batch), walheld.CauseTransaction, "by pid 4711 (application batch)"},
		{"Kafka", func(s *Status) { s.Streaming(&waiting); s.Kafka(errors.New(`topic "orders" does not exist`)) }, heldSlot(10, 10*mib, batch), walheld.CauseKafka, `topic "orders" does not exist`},
		{"Kafka, on topics", func(s *Status) { s.Streaming(&waiting); s.Kafka(errors.New("no broker answers")) }, heldSlot(10, 10*mib, batch), walheld.CauseKafka, `Kafka acknowledges nothing on topic "orders" and 1 more since `},
		{"Kafka, with nothing in flight", func(s *Status) { s.Streaming(&idle); s.Kafka(errors.New("no broker answers")) }, heldSlot(10, 10*mib, nil), walheld.CauseWaits, "outboxd waits: no broker answers"},
		{"registry", func(s *Status) {
			s.Streaming(&waiting)
			s.UseRegistry()
			s.Fault("registry", errors.New("registry answers 503"))
		}, heldSlot(10, 10*mib, nil), walheld.CauseWaits, "registry answers 503"},
		{"rewind", func(s *Status) { s.UseRewind("1h0m0s") }, heldSlot(10, 10*mib, nil), walheld.CauseRewind, "delivery.rewind 1h0m0s"},
		{"decoding", func(s *Status) { s.Streaming(&waiting) }, heldSlot(10, 100*mib, nil), walheld.CauseDecoding, "PostgreSQL decodes a large transaction"},
		{"lost", func(*Status) {}, Slot{WALStatus: "lost", Held: walheld.Facts{Slot: "outboxd", Lost: "wal_removed"}}, walheld.CauseLost, "wal_removed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := New(time.Hour)
			s.Streaming(someGauges)
			s.Kafka(nil)
			get := serve(t, s)
			if why := s.Why(); why.Cause != "" {
				t.Errorf("before anybody has asked: %+v", why)
			}
			test.report(s)
			s.Slot(test.slot)
			_, body := get("/status")
			var r Report
			if err := json.Unmarshal([]byte(body), &r); err != nil || r.HeldBy != test.cause || !strings.Contains(r.Why, test.text) {
				t.Errorf("%v: %s", err, body)
			}
			_, body = get("/metrics")
			for _, cause := range walheld.Causes() {
				want := "0"
				if cause == test.cause {
					want = "1"
				}
				metric(t, body, fmt.Sprintf("outboxd_slot_wal_held_by{cause=%q}", cause), want)
			}
			metric(t, body, "outboxd_slot_wal_before_confirmed_bytes", fmt.Sprint(float64(test.slot.Held.Before())))
			metric(t, body, "outboxd_slot_wal_after_confirmed_bytes", fmt.Sprint(float64(test.slot.Held.After())))
		})
	}
}

// The first look at the slot may be from before this process has it.
func TestNotUnattendedWhileStreaming(t *testing.T) {
	s := New(time.Hour)
	s.Kafka(nil)
	before := heldSlot(10, 10, nil)
	before.Held.Active, before.Held.Inactive = false, time.Now()
	s.Slot(before)
	if why := s.Why(); why.Cause != walheld.CauseUnattended {
		t.Errorf("before it streams: %+v", why)
	}
	s.Streaming(someGauges)
	if why := s.Why(); why.Cause != walheld.CauseNothing {
		t.Errorf("while it streams: %+v", why)
	}
	s.Stopped()
	if why := s.Why(); why.Cause != walheld.CauseUnattended {
		t.Errorf("after it has stopped: %+v", why)
	}
}

// A reason is logged when it has lasted, and once; so is its end.
func TestWhyChanged(t *testing.T) {
	s := New(time.Hour)
	s.Streaming(someGauges)
	s.Kafka(nil)
	one, two := &walheld.Transaction{PID: "1", Open: time.Hour}, &walheld.Transaction{PID: "2", Open: time.Hour}
	var said []string
	for _, oldest := range []*walheld.Transaction{nil, nil, one, nil, one, one, one, two, two, nil, nil, nil} {
		s.Slot(heldSlot(30*mib, 10, oldest))
		if why, changed := s.WhyChanged(); changed {
			said = append(said, string(why.Cause)+" "+why.About)
		}
	}
	if got, want := strings.Join(said, ", "), "transaction 1, transaction 2, nothing "; got != want {
		t.Errorf("logged %q, want %q", got, want)
	}
	// Who stands by leaves it to who streams.
	s = New(time.Hour)
	s.StandBy(errors.New("the slot is in use"))
	for range 3 {
		s.Slot(heldSlot(30*mib, 10, one))
		if _, changed := s.WhyChanged(); changed {
			t.Error("a process that stands by logs it")
		}
	}
}

// The time until a slot is lost is known where there is a limit and what may be held
// shrinks, whatever steps it moves in.
func TestLostIn(t *testing.T) {
	const every = 15 * time.Second
	falling := func(i int) int64 { return 1000*mib - int64(i)*15*mib } // 1 MiB a second
	for _, test := range []struct {
		name  string
		looks int
		safe  func(i int) int64
		want  time.Duration // 0: absent
	}{
		{"no limit", 30, func(int) int64 { return -1 }, 0},
		{"too soon", 3, falling, 0},
		{"falling", 20, falling, time.Duration(1000-19*15) * time.Second},
		{"grown", 20, func(i int) int64 { return 1000*mib + int64(i) }, 0},
		{"constant", 20, func(int) int64 { return 1000 * mib }, 0},
		{"steps without a trend", 41, func(i int) int64 { return 1000*mib - int64(i%2)*mib }, 0},
		{"falling in steps", 41, func(i int) int64 { return falling(i/2*2) + 30*mib }, time.Duration(1000-40*15) * time.Second},
		{"falling only since minutes", 60, func(i int) int64 { return falling(max(i-30, 0)) }, time.Duration(1000-29*15) * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(time.Hour)
				for i := range test.looks {
					if i > 0 {
						time.Sleep(every)
					}
					s.Slot(Slot{Safe: test.safe(i), WALStatus: "extended"})
				}
				got, ok := s.LostIn()
				if ok != (test.want != 0) || ok && math.Abs(got.Seconds()/test.want.Seconds()-1) > 0.2 {
					// Steps without a trend may leave one that says years.
					if !ok || test.want != 0 || got < 24*time.Hour {
						t.Errorf("%s, %t, want %s", got, ok, test.want)
					}
				}
			})
		})
	}
	s := New(time.Hour)
	get := serve(t, s)
	if _, body := get("/metrics"); strings.Contains(body, "\noutboxd_slot_lost_in_seconds") {
		t.Error("/metrics says when a slot is lost that nobody has looked at")
	}
	s.Slot(Slot{Safe: 0, WALStatus: "unreserved"})
	_, body := get("/metrics")
	metric(t, body, "outboxd_slot_lost_in_seconds", "0")
	if _, body := get("/status"); !strings.Contains(body, `"slot_lost_in_seconds": 0`) {
		t.Error(body)
	}
}
