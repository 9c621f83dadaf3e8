package simulate

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// What a process has sent over a slow connection, and closed before its end, arrives
// with its end, or late where transactions keep it from doing harm: among the events of
// the next process it would be taken for a broken order.
func TestSentBeforeTheEnd(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const slow = 300 * time.Millisecond
			p := &process{silent: make(map[side]bool), latency: map[side][2]time.Duration{kafkaSide: {slow, 0}}}
			l := newLink(p, "client", "kafka", 100)
			l.late = late
			if err := p.add(l); err != nil {
				t.Fatal(err)
			}
			if _, err := l.client.Write([]byte("events")); err != nil {
				t.Fatal(err)
			}
			if err := l.client.Close(); err != nil {
				t.Fatal(err)
			}
			if err := p.add(newLink(p, "client", "kafka", 100)); err != nil { // which forgets connections that are done
				t.Fatal(err)
			}
			began, want := time.Now(), time.Duration(0)
			if late {
				want = slow
			}
			p.kill(true)
			got, err := io.ReadAll(l.server)
			if took := time.Since(began); string(got) != "events" || err != nil || took != want {
				t.Errorf("late %t: %q, %v after %s; want all of it after %s", late, got, err, took, want)
			}
		})
	}
}
