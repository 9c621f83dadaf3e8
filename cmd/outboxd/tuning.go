package main

import (
	"context"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	"outboxd/internal/config"
	"outboxd/internal/rawconn"
	"outboxd/internal/replication"
	"outboxd/internal/status"
	"outboxd/sink"
)

// tuneProcess sets the processors and the memory of the Go runtime. Processors follow
// the load until ctx ends.
func tuneProcess(ctx context.Context, cfg *config.Config) {
	limitMemory(cfg.Tuning.MemoryLimit, memoryLimit(int64(cfg.Kafka.MaxBuffered)))
	if n := int(cfg.Tuning.Processors); n > 0 {
		runtime.GOMAXPROCS(n)
		return
	}
	adaptProcessors(ctx)
}

// limitMemory sets how the Go runtime collects garbage; auto is the limit to take where
// the configuration names none. GOGC and GOMEMLIMIT in the environment are left as
// they are, unless it names one.
func limitMemory(limit config.MemoryLimit, auto int64) {
	if limit == config.NoMemoryLimit {
		return
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	switch {
	case limit != config.AutoMemoryLimit:
		debug.SetMemoryLimit(int64(limit))
	case os.Getenv("GOMEMLIMIT") == "":
		debug.SetMemoryLimit(auto)
	}
}

// tune applies the switches of the stages and of the sockets that they will open, and
// has st report what each optimisation does.
func tune(cfg *config.Config, source *replication.Options, kafka *sink.Options, st *status.Status) {
	rawconn.Enable(cfg.Tuning.RawSockets)
	reads, sends := new(atomic.Int64), new(atomic.Int64)
	source.NeverDelayReads, source.ReadDelays = !cfg.Tuning.DelayReads, reads
	if kafka.SendDelays = sends; !cfg.Tuning.DelaySends {
		kafka.Backlog = 0
	}
	st.Tuning(status.Tuning{
		ReadDelays:  reads.Load,
		SendDelays:  sends.Load,
		RawSockets:  rawconn.Open,
		Processors:  func() int { return runtime.GOMAXPROCS(0) },
		MemoryLimit: heapLimit,
	})
}

// heapLimit returns the limit of the Go runtime's memory in force, +Inf for none.
func heapLimit() float64 {
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		return float64(limit)
	}
	return math.Inf(1)
}
