package memory

import (
	"context"
	"io"
	"sync"
	"testing"
)

func TestLedgerGivesBackWhatWasTaken(t *testing.T) {
	m := New(4 * BlockSize)
	a, b := m.Take(1, nil), m.Take(BlockSize, nil)
	if a == nil || b == nil {
		t.Fatal("two blocks do not fit into four")
	}
	a.Retain()
	a.Retain()
	b.Retain()
	b.Charge(1000)
	if want := int64(2*BlockSize + 1000); m.Used() != want {
		t.Errorf("used %d, want %d", m.Used(), want)
	}
	a.Release(0) // the reader leaves first, the events follow
	a.Release(0)
	if want := int64(2*BlockSize + 1000); m.Used() != want {
		t.Errorf("used %d after the reader and one of two events left, want %d: the block is still held", m.Used(), want)
	}
	a.Release(0)
	b.Release(1000) // here the events leave first
	b.Release(0)
	if m.Used() != 0 {
		t.Errorf("used %d after all was given back", m.Used())
	}
}

func TestLedgerReusesBlocks(t *testing.T) {
	m := New(4 * BlockSize)
	first := m.Take(1, nil)
	first.Release(0)
	if again := m.Take(BlockSize, nil); again != first {
		t.Error("a block that was given back is not used again")
	}
	large := m.Take(BlockSize+1, nil)
	large.Release(0)
	if len(m.spare) != 0 {
		t.Error("a block of an uncommon size is kept")
	}
}

func TestLedgerLimit(t *testing.T) {
	m := New(2 * BlockSize)
	a, b := m.Take(1, nil), m.Take(1, nil)
	if b == nil {
		t.Fatal("the limit is not used up to the last byte")
	}
	if m.Take(1, nil) != nil {
		t.Fatal("a third block passes the limit of two")
	}
	if m.Take(1, b) != nil {
		t.Fatal("the caller's own block does not excuse the other one")
	}
	a.Release(0)
	select {
	case <-m.freed:
	default:
		t.Fatal("a block was given back, and the waiting stream was not woken")
	}
	if m.Take(1, nil) == nil {
		t.Error("there is room for a block again")
	}
}

// What is charged for events counts too: the stream is woken when it comes back,
// although no block does.
func TestLedgerWakesBelowTheLimit(t *testing.T) {
	m := New(2 * BlockSize)
	a := m.Take(1, nil)
	a.Retain()
	a.Charge(BlockSize)
	a.Release(BlockSize)
	select {
	case <-m.freed:
	default:
		t.Error("usage went below the limit, and the waiting stream was not woken")
	}
}

// With a limit of little more than a block the stream waits until it is alone, and is
// woken then.
func TestLedgerWakesWhenAlone(t *testing.T) {
	m := New(BlockSize)
	own := m.Take(1, nil)
	own.Retain()
	own.Retain()
	own.Release(0)
	if m.Take(1, own) != nil {
		t.Fatal("not alone, and past the limit")
	}
	own.Release(0)
	select {
	case <-m.freed:
	default:
		t.Error("the last event is gone, and the waiting stream was not woken")
	}
	if m.Take(1, own) == nil {
		t.Error("alone, and still held up")
	}
}

func TestLedgerOversize(t *testing.T) {
	const size = 10 * BlockSize
	m := New(2 * BlockSize)
	small := m.Take(1, nil)
	small.Retain()
	if m.Take(size, small) != nil {
		t.Fatal("a frame above the limit was let through beside an unacknowledged event")
	}
	small.Release(0)
	large := m.Take(size, small)
	if large == nil {
		t.Fatal("a frame above the limit is never let through: the stream would wait for ever")
	}
	if len(large.buf) != size {
		t.Errorf("block of %d bytes, want %d", len(large.buf), size)
	}
	small.Release(0)
	large.Release(0)
	if m.Used() != 0 {
		t.Errorf("used %d after all was given back", m.Used())
	}
}

// Events are released by the Kafka client's goroutines while the stream goes on
// taking blocks.
func TestLedgerConcurrentRelease(t *testing.T) {
	m := New(8 * BlockSize)
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
		b := m.Take(1, nil)
		for b == nil {
			<-m.freed
			b = m.Take(1, nil)
		}
		b.buf[0]++ // the race detector sees a block that is in use twice
		for range 5 {
			b.Retain()
			events <- b
		}
		b.Release(0)
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

// What others use on behalf of events counts, and holds the stream up.
func TestLedgerOfOthers(t *testing.T) {
	m := New(4 * BlockSize)
	m.Acquire(4*BlockSize+1, false)
	if m.Take(1, nil) != nil {
		t.Fatal("the limit is passed by copies of events, and the stream goes on")
	}
	if m.Release(2 * BlockSize) {
		t.Error("more may be kept than the limit")
	}
	select {
	case <-m.freed:
	default:
		t.Error("usage went below the limit, and the waiting stream was not woken")
	}
	if m.Used() != 2*BlockSize+1 {
		t.Errorf("used %d", m.Used())
	}
	if m.Take(4*BlockSize, nil) != nil {
		t.Fatal("a frame passes the limit beside copies of events")
	}
	m.Release(2*BlockSize + 1)
	select {
	case <-m.freed:
	default:
		t.Error("nothing is in use, and the stream that waits with a large frame was not woken")
	}
	if m.Take(5*BlockSize, nil) == nil {
		t.Error("nothing is in use, and a frame above the limit is not let through")
	}
}

// What is kept for later and what is in use stay at the limit together, whoever keeps
// it: what is kept gives way.
func TestLedgerKeepsNoMoreThanTheLimit(t *testing.T) {
	m := New(8 * BlockSize)
	kept := 0 // by somebody else
	m.OnShortage(func(bytes int) int {
		shed := min(kept, bytes)
		kept -= shed
		return shed
	})
	check := func(what string, blocks, others int) {
		t.Helper()
		if len(m.spare) != blocks || kept != others*BlockSize {
			t.Errorf("%s: %d blocks and %d bytes elsewhere are kept, want %d and %d", what, len(m.spare), kept, blocks, others*BlockSize)
		}
		if total := m.used.Load() + m.kept.Load(); total > m.limit || m.kept.Load() != int64(len(m.spare)*BlockSize+kept) {
			t.Errorf("%s: %d bytes in all, %d kept", what, total, m.kept.Load())
		}
	}
	take := func(n int) (blocks []*Block) {
		for range n {
			blocks = append(blocks, m.Take(1, nil))
		}
		return blocks
	}
	release := func(blocks []*Block) {
		for _, b := range blocks {
			b.Release(0)
		}
	}
	release(take(8))
	check("eight blocks were used", 8, 0)
	m.Acquire(3*BlockSize, false)
	check("memory is used elsewhere", 5, 0)
	if m.Release(3 * BlockSize) {
		kept += 3 * BlockSize
	}
	check("and then kept", 5, 3)
	used := take(6)
	check("a sixth block is used", 0, 2)
	m.Acquire(2*BlockSize, true)
	kept -= 2 * BlockSize
	check("what was kept is used", 0, 0)
	used[0].Charge(BlockSize)
	if m.Release(BlockSize) {
		t.Error("more may be kept than the limit")
	}
	used[0].Release(BlockSize)
	release(used[1:])
	m.Take(7*BlockSize, nil).Release(0)
	if len(m.spare) != 0 {
		t.Errorf("%d blocks are kept beside a large frame", len(m.spare))
	}
	last := m.Take(1, nil)
	m.Acquire(8*BlockSize, false)
	if last.Release(0); len(m.spare) != 0 {
		t.Error("a block is kept although the limit is used up")
	}
}

// A buffer makes frames one behind the other, waits at the limit, and lets through
// what is larger than the limit when it is alone.
func TestBuffer(t *testing.T) {
	m := New(2 * BlockSize)
	b := NewBuffer(m)
	frame := func(size int) []byte {
		t.Helper()
		f, err := b.Make(t.Context(), size)
		if err != nil || len(f) != size || cap(f) != size {
			t.Fatalf("%d bytes of %d, %v", len(f), cap(f), err)
		}
		return f
	}
	first, second := frame(100), frame(BlockSize-100)
	if &b.Block().buf[0] != &first[0] || &b.Block().buf[100] != &second[0] {
		t.Error("frames do not lie one behind the other")
	}
	full := b.Block()
	full.Retain()
	frame(1)
	if b.Block() == full || m.Used() != 2*BlockSize {
		t.Errorf("%d bytes in use", m.Used())
	}
	b.Block().Retain()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrNoProgress)
	if _, err := b.Make(ctx, BlockSize); err != io.ErrNoProgress {
		t.Errorf("past the limit: %v", err)
	}
	full.Release(0)
	frame(BlockSize)
	b.Close()
	alone := New(1)
	b = NewBuffer(alone)
	frame(3 * BlockSize)
	b.Close()
	if alone.Used() != 0 {
		t.Errorf("%d bytes in use after the end", alone.Used())
	}
}

// Each byte is in the account of its owner, and with nothing in flight nothing is in
// use but the reader's own block.
func TestAccounts(t *testing.T) {
	l := New(8 * BlockSize)
	check := func(what string, want Accounts, idle bool) {
		t.Helper()
		if got := l.Accounts(); got != want || got.Idle() != idle || l.Used() != want.Blocks+want.Events+want.Deliveries {
			t.Errorf("%s: %s, idle %t, %d used; want %s, idle %t", what, got, got.Idle(), l.Used(), want, idle)
		}
	}
	check("new", Accounts{}, true)
	reader := l.Take(1, nil)
	check("a reader waits", Accounts{Blocks: BlockSize}, true)
	reader.Retain()
	reader.Charge(100)
	l.Acquire(1000, false)
	check("an event is in flight", Accounts{Blocks: BlockSize, Events: 100, Deliveries: 1000}, false)
	reader.Release(100)
	check("it is acknowledged", Accounts{Blocks: BlockSize, Deliveries: 1000}, false)
	if !l.Release(1000) {
		t.Fatal("there is room, and nothing may be kept")
	}
	check("its delivery came back", Accounts{Blocks: BlockSize, Kept: 1000}, true)
	l.Acquire(1000, true)
	check("and is used again", Accounts{Blocks: BlockSize, Deliveries: 1000}, false)
	l.Release(1000)
	l.Discard(1000)
	check("and is given up", Accounts{Blocks: BlockSize}, true)
	large := l.Take(3*BlockSize, reader)
	reader.Release(0)
	check("a large frame", Accounts{Blocks: 3 * BlockSize, Kept: BlockSize}, true)
	large.Retain()
	large.Charge(7)
	large.Release(0)
	check("the reader has left before its event", Accounts{Blocks: 3 * BlockSize, Events: 7, Kept: BlockSize}, false)
	large.Release(7)
	check("the end", Accounts{Kept: BlockSize}, true)
}
