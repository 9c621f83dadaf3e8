package e2e

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"outboxd/internal/testbed"
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

// A process that was cut off finds the slot taken over and confirmed beyond what
// it knows. That is what a second process is for, and no reason to refuse: it is
// the one that waits now.
func TestTakenOverWhileCutOff(t *testing.T) {
	s := newScenario(t, nil, nil)
	proxy, err := testbed.NewProxy(s.postgres.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	direct := s.dsn
	s.through(proxy)
	s.extra = "delivery: {confirm_interval: 100ms}\nerrors: {retry: {min: 50ms, max: 500ms}}"
	first := s.startStreaming()
	s.events(1, 10)
	s.waitConfirmed(30 * time.Second)
	s.dsn = direct
	second := s.start()
	second.waitLog("slot is in use", 30*time.Second)
	proxy.Refuse(true)
	proxy.Cut()
	second.waitLog(`"message":"streaming"`, 15*time.Second)
	s.events(11, 20)
	s.waitConfirmed(30 * time.Second)
	proxy.Refuse(false)
	first.waitLog("slot is in use", 15*time.Second)
	s.events(21, 30)
	s.waitConfirmed(30 * time.Second)
	second.stop()
	s.checkpoint()
	s.events(31, 40)
	s.waitConfirmed(15 * time.Second)
	first.stop()
	if r := s.verify(); r.committed != 40 || r.repeated != 0 {
		t.Errorf("%+v", r)
	}
}

// A process that is stopped for a while keeps the slot, since its connection is
// open: the second waits, and whoever is first in the end, nothing is lost.
func TestStandbyWaitsForStoppedProcess(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.extra = "delivery: {confirm_interval: 100ms}"
	first := s.startStreaming()
	l := s.startLoad(2, 10, 5*time.Millisecond, 41)
	second := s.start()
	second.waitLog("slot is in use", 30*time.Second)
	first.signal(syscall.SIGSTOP)
	before := l.committed.Load()
	waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+500 })
	attempts := second.count("slot is in use")
	waitFor(t, 30*time.Second, func() (string, bool) { return "it does not try again", second.count("slot is in use") > attempts })
	if second.logged(`"message":"streaming"`) || !second.running() {
		t.Fatalf("the second did not wait:\n%s", second.tail(20))
	}
	first.signal(syscall.SIGCONT)
	s.waitConfirmed(30 * time.Second)
	first.stop()
	s.checkpoint()
	second.waitLog(`"message":"streaming"`, 15*time.Second)
	l.stop()
	s.waitConfirmed(30 * time.Second)
	second.stop()
	if r := s.verify(); r.repeated != 0 {
		t.Errorf("%+v", r)
	}
}
