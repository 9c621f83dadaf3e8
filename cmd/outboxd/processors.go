package main

import (
	"context"
	"os"
	"runtime"
	"syscall"
	"time"
)

// One processor is enough for the whole way from PostgreSQL to Kafka, which is
// mostly one goroutine, and it costs a third less CPU time at a steady load: with
// more, each wake-up of a goroutine goes to another, idle processor. Only when the
// one is nearly used up, as by an expensive compression, are there more.
const (
	busy        = 0.85 // of one processor: use more
	calm        = 0.60 // use one again
	lookAtUsage = time.Second
	// mostProcessors is as many as there is work for at once: reading, encoding
	// batches for a few brokers, collecting garbage.
	mostProcessors = 4
)

// processors returns how many to use after a time in which usage processors were
// busy.
func processors(now int, usage float64, available int) int {
	switch {
	case usage > busy:
		return min(available, mostProcessors)
	case usage < calm:
		return 1
	}
	return now
}

// adaptProcessors sets the number of processors until ctx ends. GOMAXPROCS in the
// environment is left as it is.
func adaptProcessors(ctx context.Context) {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	available := runtime.GOMAXPROCS(0)
	now := 1
	runtime.GOMAXPROCS(now)
	go func() {
		tick := time.NewTicker(lookAtUsage)
		defer tick.Stop()
		used, at := cpuTime(), time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			u, t := cpuTime(), time.Now()
			next := processors(now, (u-used).Seconds()/t.Sub(at).Seconds(), available)
			if next != now {
				now = next
				runtime.GOMAXPROCS(now)
			}
			used, at = u, t
		}
	}()
}

// cpuTime is the time that this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
