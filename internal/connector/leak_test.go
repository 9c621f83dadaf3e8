package connector

import (
	"runtime"
	"strings"
	"testing"

	"outboxd/internal/leak"
)

// TestMain holds every run of the tests to it that Run returns only when all that it
// started has ended.
func TestMain(m *testing.M) {
	leak.Main(m, "outboxd/internal/connector.(*", "outboxd/internal/flow.", "outboxd/internal/guarantee.", "outboxd/sink.(*")
}

// Run waits for what it started: at its return nothing of it is left, without waiting.
func TestRunWaitsForWhatItStarted(t *testing.T) {
	before := runningWatchers()
	h := newHarness(t)
	h.run()
	h.untilReady()
	if runningWatchers() <= before {
		t.Fatal("no goroutine was started, so that nothing is tested")
	}
	h.stop()
	if err := h.end(); err != nil {
		t.Error(err)
	}
	if n := runningWatchers(); n > before {
		t.Errorf("%d goroutines of the run are left", n-before)
	}
}

// runningWatchers counts the goroutines that look at the slot's health.
func runningWatchers() int {
	buf := make([]byte, 16<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "connector.(*Connector).watchSlot(")
}
