package e2e

import (
	"path/filepath"
	"testing"
	"time"
)

// A second process with the same configuration waits for the slot and takes over
// when the first ends, whichever way that is. Meanwhile the first confirms more
// and more: what the second has seen of the slot at its own start must not be
// held against it.
func TestTakeover(t *testing.T) {
	for _, store := range []string{"slot", "file"} {
		t.Run(store, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			s.extra = "delivery: {confirm_interval: 100ms, store: " + store + "}"
			if store == "file" {
				s.extra = "delivery: {confirm_interval: 100ms, store: file, file: " + filepath.Join(t.TempDir(), "position.json") + "}"
			}
			active := s.startStreaming()
			l := s.startLoad(2, 10, 5*time.Millisecond, 29)
			for _, end := range []func(c *connector){(*connector).kill, (*connector).stop, (*connector).kill, (*connector).stop} {
				standby := s.start()
				standby.waitLog("slot is in use", 30*time.Second)
				before, at := l.committed.Load(), s.confirmed()
				waitFor(t, 60*time.Second, func() (string, bool) {
					return "the first does not go on", l.committed.Load() > before+200 && s.confirmed() > at
				})
				end(active)
				s.checkpoint()
				// A retry comes each second, and the server needs a moment to
				// notice the end.
				standby.waitLog(`"message":"streaming"`, 15*time.Second)
				active = standby
			}
			l.stop()
			s.waitConfirmed(60 * time.Second)
			active.stop()
			r := s.verify()
			t.Logf("%+v", r)
		})
	}
}
