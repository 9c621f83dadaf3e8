package memory

import (
	"context"
	"sync/atomic"
	"time"
)

// BlockSize is the size of the buffers that frames are read into, in bytes. It holds
// what one read of a full socket brings.
const BlockSize = 256 << 10

// Block is a buffer of whole frames. It lives as long as its reader or any event
// in it.
type Block struct {
	ledger *Ledger
	refs   atomic.Int32
	buf    []byte
}

// Bytes returns the buffer, which belongs to the reader; of an event are the bytes of
// its frame.
func (b *Block) Bytes() []byte { return b.buf }

// Retain keeps the block for one more event.
func (b *Block) Retain() { b.refs.Add(1) }

// Charge adds to events so many bytes that one of the block takes until it is released.
func (b *Block) Charge(bytes int) { b.ledger.used.Add(int64(bytes)) }

// Release gives up what Retain kept, and takes off what was charged. Any goroutine may
// call it.
func (b *Block) Release(charged int) {
	l := b.ledger
	if left := b.refs.Add(-1); left > 0 {
		// The last of them is the reader, unless it went first: it may be alone now.
		if alone := left == 1; alone || charged > 0 {
			l.give(int64(charged), alone)
		}
		return
	}
	l.out.Add(-1)
	l.blocks.Add(int64(-len(b.buf)))
	l.give(int64(charged+len(b.buf)), true)
	if len(b.buf) == BlockSize {
		l.keep(BlockSize, b)
	}
}

// Buffer makes frames in blocks of a ledger, for events that do not come from a
// stream. One goroutine uses it, and no stream the same ledger meanwhile.
type Buffer struct {
	ledger *Ledger
	block  *Block
	w      int // block.buf[:w] is in use
}

// NewBuffer returns an empty buffer.
func NewBuffer(ledger *Ledger) *Buffer { return &Buffer{ledger: ledger} }

// Make returns the memory of a frame, in Block. It waits at the ledger's limit
// until ctx ends, whose cause it then returns.
func (b *Buffer) Make(ctx context.Context, size int) ([]byte, error) {
	for b.block == nil || len(b.block.buf)-b.w < size {
		b.Close() // its events keep it
		if b.block, b.w = b.ledger.Take(size, nil), 0; b.block != nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-b.ledger.freed:
		case <-time.After(time.Second):
		}
	}
	frame := b.block.buf[b.w : b.w+size : b.w+size]
	b.w += size
	return frame, nil
}

// Block returns the memory of the frame that was made last.
func (b *Buffer) Block() *Block { return b.block }

// Close gives up the buffer's own hold of its block.
func (b *Buffer) Close() {
	if b.block != nil {
		b.block.Release(0)
		b.block = nil
	}
}
