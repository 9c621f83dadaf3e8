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
		var g Gate
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

// Who gives up a turn keeps nobody out, whether the turn has come or not.
func TestGateWithdraw(t *testing.T) {
	var g Gate
	free := func(turn <-chan struct{}) bool {
		select {
		case <-turn:
			return true
		default:
			return false
		}
	}
	if g.Ask() != nil {
		t.Fatal("it is not free")
	}
	first, second, third := g.Ask(), g.Ask(), g.Ask()
	g.Withdraw(second)
	if free(first) || free(second) || free(third) {
		t.Error("a turn has come while another one has it")
	}
	g.Unlock()
	if !free(first) || free(third) {
		t.Error("it is not the first one's turn")
	}
	g.Withdraw(first)
	if !free(third) || free(second) {
		t.Error("it is not the third one's turn")
	}
	g.Unlock()
	if g.held.Load() || g.queued.Load() != 0 || g.Ask() != nil {
		t.Error("it is not free in the end")
	}
}

// Many at once: nobody is forgotten, and there is one at a time.
func TestGateOfMany(t *testing.T) {
	var g Gate
	var all sync.WaitGroup
	n := 0 // the race detector looks after it
	for range 8 {
		all.Go(func() {
			for i := range 5000 {
				if turn := g.Ask(); turn != nil {
					if i%3 == 0 {
						g.Withdraw(turn)
						g.Lock()
					} else {
						<-turn
					}
				}
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
	var g Gate
	n := 0
	for b.Loop() {
		g.Lock()
		n++
		g.Unlock()
	}
}
