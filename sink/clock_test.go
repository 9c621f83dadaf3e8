package sink

import (
	"testing"
	"testing/synctest"
	"time"
)

// The time of day may be set while the process runs, and that is no pause: in the
// bubble it goes forward by two hours, and the machine's own clock does not.
func TestClockStepIsNoPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pauses{limit: time.Hour}
		p.begin()
		before := time.Now()
		time.Sleep(2 * time.Hour)
		if time.Since(before) < 2*time.Hour {
			t.Fatal("the clock was not set")
		}
		if err := p.running(); err != nil {
			t.Error(err)
		}
	})
}
