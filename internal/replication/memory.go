package replication

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// blockSize is the size of the buffers that frames are read into. It holds
	// what one read of a full socket brings.
	blockSize = 256 << 10
	// eventOverhead is charged for each event that holds a block, for what is
	// kept beside its bytes until it is acknowledged: the delivery, the
	// client's record and headers. Measured with a broker that stands still.
	eventOverhead = 900
)

// Memory bounds the bytes of frames that were read and are not yet
// acknowledged. The stream allocates from it, and waits at the limit; blocks
// come back from the goroutine that hears of acknowledgements.
type Memory struct {
	limit int64
	used  atomic.Int64
	// freed wakes the stream when it waits.
	freed chan struct{}

	mu    sync.Mutex
	spare []*Block
}

// NewMemory returns a bound of so many bytes.
func NewMemory(limit int64) *Memory {
	return &Memory{limit: limit, freed: make(chan struct{}, 1)}
}

// Used returns the bytes in use now.
func (m *Memory) Used() int64 { return m.used.Load() }

// Block is a buffer of whole frames. It lives as long as its reader or any event
// in it.
type Block struct {
	memory *Memory
	refs   atomic.Int32
	buf    []byte
}

// Retain keeps the block for one more event.
func (b *Block) Retain() {
	b.refs.Add(1)
	b.memory.used.Add(eventOverhead)
}

// Charge accounts for so many bytes more that an event of the block takes until
// it is released.
func (b *Block) Charge(bytes int) { b.memory.used.Add(int64(bytes)) }

// Release gives up what Retain kept, and what was charged. Any goroutine may call
// it.
func (b *Block) Release(charged int) { b.drop(eventOverhead + int64(charged)) }

func (b *Block) drop(charge int64) {
	m := b.memory
	last := b.refs.Add(-1) == 0
	if last {
		charge += int64(len(b.buf))
		if len(b.buf) == blockSize {
			m.mu.Lock()
			m.spare = append(m.spare, b)
			m.mu.Unlock()
		}
	}
	used := m.used.Add(-charge)
	if last || used < m.limit && used+charge >= m.limit {
		select {
		case m.freed <- struct{}{}:
		default:
		}
	}
}

// take returns a block of at least size bytes, or nil when that would pass the
// limit. held is what the caller itself holds: a frame larger than the limit is
// let through when nothing else is in use.
func (m *Memory) take(size int, held int64) *Block {
	size = max(size, blockSize)
	if used := m.used.Load(); used > held && used+int64(size) > m.limit {
		return nil
	}
	m.used.Add(int64(size))
	var b *Block
	if size == blockSize {
		m.mu.Lock()
		if n := len(m.spare); n > 0 {
			b, m.spare = m.spare[n-1], m.spare[:n-1]
		}
		m.mu.Unlock()
	}
	if b == nil {
		b = &Block{memory: m, buf: make([]byte, size)}
	}
	b.refs.Store(1)
	return b
}

// Buffer makes frames in blocks of the memory, for events that do not come from a
// stream. One goroutine uses it, and no stream the same memory meanwhile.
type Buffer struct {
	memory *Memory
	block  *Block
	w      int // block.buf[:w] is in use
}

// NewBuffer returns an empty buffer.
func NewBuffer(memory *Memory) *Buffer { return &Buffer{memory: memory} }

// Make returns the memory of a frame, in Block. It waits at the memory's limit
// until ctx ends, whose cause it then returns.
func (b *Buffer) Make(ctx context.Context, size int) ([]byte, error) {
	for b.block == nil || len(b.block.buf)-b.w < size {
		b.Close() // its events keep it
		if b.block, b.w = b.memory.take(size, 0), 0; b.block != nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-b.memory.freed:
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
		b.block.drop(0)
		b.block = nil
	}
}
