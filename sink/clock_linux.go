package sink

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot is a clock that nobody sets. Unlike Go's monotonic clock it counts while
// the machine is suspended: clock_gettime(2), CLOCK_BOOTTIME.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return time.Since(started)
	}
	return time.Duration(t.Nano())
}

var started = time.Now()
