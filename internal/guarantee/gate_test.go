package guarantee

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The gate lets one in at a time, in order; who takes it again and again keeps nobody out.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		var order []int
		var all sync.WaitGroup
		g.Lock()
		for n := range 3 {
			all.Go(func() {
				for range 2 {
					g.Lock()
					order = append(order, n)
					time.Sleep(time.Second)
					g.Unlock()
				}
			})
			synctest.Wait()
		}
		g.Unlock()
		all.Wait()
		if !slices.Equal(order, []int{0, 1, 2, 0, 1, 2}) {
			t.Errorf("order %v", order)
		}
		if g.held.Load() || g.queued.Load() != 0 {
			t.Error("it is not free in the end")
		}
	})
}

// Many at once: nobody is forgotten, and there is one at a time.
func TestGateOfMany(t *testing.T) {
	var g gate
	var all sync.WaitGroup
	n := 0 // the race detector looks after it
	for range 8 {
		all.Go(func() {
			for range 5000 {
				g.Lock()
				n++
				g.Unlock()
			}
		})
	}
	all.Wait()
	if n != 40_000 || g.held.Load() || g.queued.Load() != 0 {
		t.Errorf("%d of 40000, held %t, %d wait", n, g.held.Load(), g.queued.Load())
	}
}

func BenchmarkGate(b *testing.B) {
	var g gate
	n := 0
	for b.Loop() {
		g.Lock()
		n++
		g.Unlock()
	}
}
