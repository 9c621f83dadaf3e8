//go:build !linux

package sink

import "time"

// sinceBoot is a clock that nobody sets.
func sinceBoot() time.Duration { return time.Since(started) }

var started = time.Now()
