package simulate

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// Flags of `make simulate`.
var (
	seedFlag  = flag.Uint64("seed", 0, "the first seed; 0: by the time of day")
	seedsFlag = flag.Int("seeds", 0, "how many seeds; 0: as many as begin within -for")
	forFlag   = flag.Duration("for", 0, "for how long new seeds are begun; 0: two seconds, or as long as -seeds takes")
	allFlag   = flag.Bool("all", false, "go on after a seed that fails, and print only what was broken")
	showFlag  = flag.Bool("show", false, "print the history of each seed")
)

// runSeed runs one seed in a bubble of its own. A seed that leaves a goroutine behind
// fails, too: synctest finds it.
func runSeed(t *testing.T, seed uint64, o options, steps []step) (history string, err error) {
	t.Run(fmt.Sprint(seed), func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, fault := newWorld(o)
			if fault != nil {
				t.Fatal(fault)
			}
			defer func() {
				if r := recover(); r != nil {
					fmt.Printf("seed %d: panic: %v\n%s\n", seed, r, w)
					panic(r)
				}
			}()
			err = w.run(steps)
			if !w.close() {
				// The goroutines that are left make synctest panic.
				fmt.Printf("seed %d: a process that was killed does not end: %v\n%s\n", seed, err, w)
				return
			}
			if history = ""; err != nil || *showFlag {
				history = w.String()
			}
		})
	})
	return history, err
}

func TestSeeds(t *testing.T) {
	first := *seedFlag
	if first == 0 {
		first = uint64(time.Now().UnixNano()) >> 10
	}
	// Worlds are small, and thrown away.
	defer debug.SetGCPercent(debug.SetGCPercent(1600))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(512 << 20))
	fmt.Printf("simulate: seeds from %d\n", first)
	limit := *forFlag
	if limit == 0 && *seedsFlag == 0 {
		limit = 2 * time.Second
	}
	var next, done atomic.Uint64
	var failed atomic.Bool
	began, used := time.Now(), processorTime()
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for !failed.Load() {
				n := next.Add(1) - 1
				if *seedsFlag > 0 && n >= uint64(*seedsFlag) || limit > 0 && time.Since(began) > limit {
					return
				}
				seed := first + n
				o, steps := wide(seed)
				history, err := runSeed(t, seed, o, steps)
				if d := done.Add(1); d%10_000 == 0 {
					fmt.Printf("simulate: %d seeds in %s\n", d, time.Since(began).Round(time.Second))
				}
				if *showFlag {
					fmt.Printf("seed %d\n%s\n", seed, history)
				}
				switch {
				case err == nil:
				case *allFlag:
					t.Errorf("seed %d: %v", seed, err)
					fmt.Printf("seed %d: %v\n", seed, err)
				case !failed.Swap(true):
					report(t, seed, o, steps, err, history)
				}
			}
		})
	}
	workers.Wait()
	fmt.Printf("simulate: %d seeds in %s, %.1f ms of processor time each\n", done.Load(), time.Since(began).Round(time.Millisecond),
		(processorTime()-used).Seconds()*1000/max(1, float64(done.Load())))
}

// processorTime is what this process has used: on a machine that does other things too,
// the time of day says little.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Seeds that have failed once, for what was wrong in the program. A unit test holds each
// of these mistakes; the seeds mean the same only as long as choose does not change.
var found = map[uint64]string{
	879:      "two starts that fence each other were taken for another program (guarantee.TestFencesOfTwoStartsAreNotCounted)",
	60046690: "what was delivered on a history that was left was skipped on the next (offsets.TestDeliveredOnAnotherHistory)",
	1109:     "a claim that failed counted as made (positions.TestFailedClaim)",
}

func TestFoundBefore(t *testing.T) {
	for seed, what := range found {
		for range 5 {
			o, steps := choose(seed)
			if history, err := runSeed(t, seed, o, steps); err != nil {
				t.Errorf("seed %d (%s): %v\n%s", seed, what, err, history)
				break
			}
		}
	}
}

// report prints a seed that failed, and a shorter one that fails like it if there is.
func report(t *testing.T, seed uint64, o options, steps []step, err error, history string) {
	t.Errorf("seed %d: %v\n%s\nagain: make simulate SEED=%d SEEDS=1", seed, err, history, seed)
	limit := time.Now().Add(20 * time.Second)
	shorter, again := steps, 0
	for i := len(steps) - 1; i >= 0 && time.Now().Before(limit); i-- {
		without := slices.Delete(slices.Clone(shorter), i, i+1)
		for range 5 {
			if h, e := runSeed(t, seed, o, without); e != nil {
				shorter, history, again = without, h, again+1
				break
			}
		}
	}
	if again > 0 {
		t.Errorf("seed %d, with %d of its %d steps:\n%s", seed, len(shorter), len(steps), history)
	}
}
