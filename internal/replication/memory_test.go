package replication

import (
	"context"
	"io"
	"sync"
	"testing"
)

func TestMemoryGivesBackWhatWasTaken(t *testing.T) {
	m := NewMemory(4 * blockSize)
	a, b := m.take(1, 0), m.take(blockSize, 0)
	if a == nil || b == nil {
		t.Fatal("two blocks do not fit into four")
	}
	a.Retain()
	a.Retain()
	b.Retain()
	if want := int64(2*blockSize + 3*eventOverhead); m.Used() != want {
		t.Errorf("used %d, want %d", m.Used(), want)
	}
	a.drop(0) // the reader leaves first, the events follow
	a.Release(0)
	if want := int64(2*blockSize + 2*eventOverhead); m.Used() != want {
		t.Errorf("used %d after the reader and one of two events left, want %d: the block is still held", m.Used(), want)
	}
	a.Release(0)
	b.Release(0) // here the events leave first
	b.drop(0)
	if m.Used() != 0 {
		t.Errorf("used %d after all was given back", m.Used())
	}
}

func TestMemoryReusesBlocks(t *testing.T) {
	m := NewMemory(4 * blockSize)
	first := m.take(1, 0)
	first.drop(0)
	if again := m.take(blockSize, 0); again != first {
		t.Error("a block that was given back is not used again")
	}
	large := m.take(blockSize+1, 0)
	large.drop(0)
	if len(m.spare) != 0 {
		t.Error("a block of an uncommon size is kept")
	}
}

func TestMemoryLimit(t *testing.T) {
	m := NewMemory(2 * blockSize)
	a, b := m.take(1, 0), m.take(1, 0)
	if b == nil {
		t.Fatal("the limit is not used up to the last byte")
	}
	if m.take(1, 0) != nil {
		t.Fatal("a third block passes the limit of two")
	}
	if m.take(1, blockSize) != nil {
		t.Fatal("the caller's own block does not excuse the other one")
	}
	a.drop(0)
	select {
	case <-m.freed:
	default:
		t.Fatal("a block was given back, and the waiting stream was not woken")
	}
	if m.take(1, 0) == nil {
		t.Error("there is room for a block again")
	}
}

// What is charged for events counts too: the stream is woken when it comes back,
// although no block does.
func TestMemoryWakesBelowTheLimit(t *testing.T) {
	m := NewMemory(2 * blockSize)
	a := m.take(1, 0)
	for m.Used() < 2*blockSize {
		a.Retain()
	}
	a.Release(0)
	select {
	case <-m.freed:
	default:
		t.Error("usage went below the limit, and the waiting stream was not woken")
	}
}

func TestMemoryOversize(t *testing.T) {
	const size = 10 * blockSize
	m := NewMemory(2 * blockSize)
	small := m.take(1, 0)
	small.Retain()
	if m.take(size, blockSize) != nil {
		t.Fatal("a frame above the limit was let through beside an unacknowledged event")
	}
	small.Release(0)
	large := m.take(size, blockSize)
	if large == nil {
		t.Fatal("a frame above the limit is never let through: the stream would wait for ever")
	}
	if len(large.buf) != size {
		t.Errorf("block of %d bytes, want %d", len(large.buf), size)
	}
	small.drop(0)
	large.drop(0)
	if m.Used() != 0 {
		t.Errorf("used %d after all was given back", m.Used())
	}
}

// Events are released by the Kafka client's goroutines while the stream goes on
// taking blocks.
func TestMemoryConcurrentRelease(t *testing.T) {
	m := NewMemory(8 * blockSize)
	events := make(chan *Block, 64)
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for b := range events {
				b.Release(0)
			}
		})
	}
	for range 2000 {
		b := m.take(1, 0)
		for b == nil {
			<-m.freed
			b = m.take(1, 0)
		}
		b.buf[0]++ // the race detector sees a block that is in use twice
		for range 5 {
			b.Retain()
			events <- b
		}
		b.drop(0)
	}
	close(events)
	clients.Wait()
	if m.Used() != 0 {
		t.Errorf("used %d after all was given back", m.Used())
	}
	if n := len(m.spare); n > 8 {
		t.Errorf("%d spare blocks, the limit allows 8", n)
	}
}

// A buffer makes frames one behind the other, waits at the limit, and lets through
// what is larger than the limit when it is alone.
func TestBuffer(t *testing.T) {
	m := NewMemory(2*blockSize + 2*eventOverhead)
	b := NewBuffer(m)
	frame := func(size int) []byte {
		t.Helper()
		f, err := b.Make(t.Context(), size)
		if err != nil || len(f) != size || cap(f) != size {
			t.Fatalf("%d bytes of %d, %v", len(f), cap(f), err)
		}
		return f
	}
	first, second := frame(100), frame(blockSize-100)
	if &b.Block().buf[0] != &first[0] || &b.Block().buf[100] != &second[0] {
		t.Error("frames do not lie one behind the other")
	}
	full := b.Block()
	full.Retain()
	frame(1)
	if b.Block() == full || m.Used() != 2*blockSize+eventOverhead {
		t.Errorf("%d bytes in use", m.Used())
	}
	b.Block().Retain()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrNoProgress)
	if _, err := b.Make(ctx, blockSize); err != io.ErrNoProgress {
		t.Errorf("past the limit: %v", err)
	}
	full.Release(0)
	frame(blockSize)
	b.Close()
	alone := NewMemory(1)
	b = NewBuffer(alone)
	frame(3 * blockSize)
	b.Close()
	if alone.Used() != 0 {
		t.Errorf("%d bytes in use after the end", alone.Used())
	}
}
