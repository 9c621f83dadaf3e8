// Package memory accounts for the memory of events on their way: one ledger for the
// whole way, in which every entry has one owner who adds it and one who takes it off.
//
//	account      what                            added by                taken off by
//	blocks       buffers that frames are read    Ledger.Take, Buffer     the Block.Release that is
//	             into, the events' own bytes                             the last: of the reader or
//	                                                                     of an event's acknowledgement
//	events       what is made of an event:       Block.Charge, before    Block.Release of the same
//	             encoded values, headers, the    the event is sent       event, with the same number
//	             client's copies of large ones
//	deliveries   the sink's slabs of             Ledger.Acquire          Ledger.Release, when all of
//	             deliveries, its copies of                               a slab, or of a chunk of
//	             events that wait, and what it                           copies, has come back
//	             sets aside to send these
//	kept         blocks, slabs and chunks that   Block.Release,          Take and Acquire, which use
//	             are kept to be used again       Ledger.Release          them again; Discard; shortage
//
// The first three are in use, Used is their sum. The rules:
//
//   - What is in use and what is kept stay at the limit together. Reading waits at it
//     (Take). Charge and Acquire never wait, since they happen in the middle of an
//     event: they may pass the limit by what the events of the blocks that were read
//     take. What is kept gives way first.
//   - A frame larger than the limit is let through when nothing else is in use.
//   - With nothing in flight and no reader, nothing is in use: Used is 0. With a reader
//     that waits for the server, its own block is, and Idle tells.
package memory

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// Ledger bounds the memory of events: of the frames that were read and are not yet
// acknowledged, of what is made of them, and of what is kept of both to be used again.
// Any goroutine may call its methods, except where they say otherwise.
type Ledger struct {
	limit int64
	// used is blocks, events and deliveries; one number, so that whoever takes off the
	// bytes that were too many knows it.
	used atomic.Int64
	// blocks and deliveries are parts of used, for Accounts.
	blocks, deliveries atomic.Int64
	kept               atomic.Int64
	out                atomic.Int64 // how many blocks are in use
	// freed has a value when a reader that waits at the limit may go on.
	freed chan struct{}
	shed  func(bytes int) (shed int)

	mu    sync.Mutex
	spare []*Block
}

// New returns a ledger with a limit of so many bytes.
func New(limit int64) *Ledger {
	return &Ledger{limit: limit, freed: make(chan struct{}, 1), shed: func(int) int { return 0 }}
}

// Used returns the bytes in use now.
func (l *Ledger) Used() int64 { return l.used.Load() }

// Accounts are a ledger's, in bytes.
type Accounts struct{ Blocks, Events, Deliveries, Kept int64 }

// Accounts returns what is in each account. It is exact while nobody changes one.
func (l *Ledger) Accounts() Accounts {
	a := Accounts{Blocks: l.blocks.Load(), Deliveries: l.deliveries.Load(), Kept: l.kept.Load()}
	a.Events = l.used.Load() - a.Blocks - a.Deliveries
	return a
}

// Idle reports whether nothing is in use but what belongs to a reader: its block.
func (a Accounts) Idle() bool { return a.Events == 0 && a.Deliveries == 0 }

func (a Accounts) String() string {
	return fmt.Sprintf("blocks %d, events %d, deliveries %d; kept %d", a.Blocks, a.Events, a.Deliveries, a.Kept)
}

// Freed has a value when a reader that waits at the limit should try again. It belongs
// to the one reader.
func (l *Ledger) Freed() <-chan struct{} { return l.freed }

// OnShortage sets what is called when memory is needed that others keep: it gives up
// so many bytes of that, if it can, and returns how many it gave up. It is set before
// anything is acquired.
func (l *Ledger) OnShortage(shed func(bytes int) int) { l.shed = shed }

// Acquire adds bytes to deliveries, and says whether they were kept until now. It never
// waits: reading does. It may call what OnShortage has set.
func (l *Ledger) Acquire(bytes int, kept bool) {
	l.used.Add(int64(bytes))
	l.deliveries.Add(int64(bytes))
	if kept {
		l.kept.Add(int64(-bytes))
		return
	}
	l.makeRoom()
}

// Release takes bytes off deliveries, and returns whether they may be kept for later.
func (l *Ledger) Release(bytes int) (keep bool) {
	last := l.deliveries.Add(int64(-bytes)) == 0
	l.give(int64(bytes), last)
	return l.keep(bytes, nil)
}

// Discard takes off bytes that Release let the sink keep, and that it keeps no more.
func (l *Ledger) Discard(bytes int) { l.kept.Add(int64(-bytes)) }

// keep accounts for bytes that are kept for later, if there is room: a block here, or
// elsewhere.
func (l *Ledger) keep(bytes int, b *Block) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over(bytes) > 0 {
		return false
	}
	l.kept.Add(int64(bytes))
	if b != nil {
		l.spare = append(l.spare, b)
	}
	return true
}

// over returns by how much the limit would be passed with so many bytes more.
func (l *Ledger) over(more int) int64 {
	return l.used.Load() + l.kept.Load() + int64(more) - l.limit
}

// makeRoom gives up of what is kept as much as is needed now.
func (l *Ledger) makeRoom() {
	for over := l.over(0); over > 0; over = l.over(0) {
		if l.reuse() == nil {
			l.kept.Add(int64(-l.shed(int(over))))
			return
		}
	}
}

// give takes bytes off those in use, and wakes the reader if that helps it.
func (l *Ledger) give(bytes int64, wake bool) {
	used := l.used.Add(-bytes)
	if wake || used < l.limit && used+bytes >= l.limit {
		select {
		case l.freed <- struct{}{}:
		default:
		}
	}
}

// Take returns a block of at least size bytes, or nil when that would pass the limit.
// own is the caller's block, if it has one: a frame larger than the limit is let
// through when no other and no event is there. The one reader calls it.
func (l *Ledger) Take(size int, own *Block) *Block {
	size = max(size, BlockSize)
	if l.used.Load()+int64(size) > l.limit && !l.alone(own) {
		return nil
	}
	l.used.Add(int64(size))
	l.blocks.Add(int64(size))
	l.out.Add(1)
	var b *Block
	if size == BlockSize {
		b = l.reuse()
	}
	if b == nil {
		l.makeRoom()
		b = &Block{ledger: l, buf: make([]byte, size)}
	}
	b.refs.Store(1)
	return b
}

// alone tells whether no block is in use but the caller's own, and that by nobody else, and
// no copy of an event either.
func (l *Ledger) alone(own *Block) bool {
	if l.deliveries.Load() != 0 {
		return false
	}
	if own == nil {
		return l.out.Load() == 0
	}
	return l.out.Load() == 1 && own.refs.Load() == 1
}

// reuse returns a block that was kept, or nil.
func (l *Ledger) reuse() *Block {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.spare)
	if n == 0 {
		return nil
	}
	b := l.spare[n-1]
	l.spare[n-1] = nil
	l.spare = l.spare[:n-1]
	l.kept.Add(-BlockSize)
	return b
}
