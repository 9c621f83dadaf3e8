// Package uptime is the clock that nobody sets, for times that several goroutines share
// as an integer: the nanoseconds since 1970 have lost what keeps a time.Time right when
// the clock of the host is set.
package uptime

import "time"

var started = time.Now()

// Of returns a time of this process as what has passed since its start.
func Of(t time.Time) time.Duration { return t.Sub(started) }

// At returns the time that Of was given. What has passed since it is right also when the
// host's clock was set meanwhile; what it prints as is not.
func At(d time.Duration) time.Time { return started.Add(d) }
