package replication

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// blockSize is the size of the buffers that frames are read into. It holds what one
// read of a full socket brings.
const blockSize = 256 << 10

// Memory bounds the bytes of frames that were read and are not yet acknowledged, of
// what is made of them, and of what is kept of both to be used again: together they
// stay at the limit. The stream allocates from it, and waits at the limit; blocks come
// back from the goroutine that hears of acknowledgements.
type Memory struct {
	limit int64
	used  atomic.Int64
	kept  atomic.Int64 // for later use: spare blocks, and what Unuse let others keep
	out   atomic.Int64 // blocks in use
	// freed wakes the stream when it waits.
	freed chan struct{}
	shed  func(bytes int) (shed int)

	mu    sync.Mutex
	spare []*Block
}

// NewMemory returns a bound of so many bytes.
func NewMemory(limit int64) *Memory {
	return &Memory{limit: limit, freed: make(chan struct{}, 1), shed: func(int) int { return 0 }}
}

// Used returns the bytes in use now.
func (m *Memory) Used() int64 { return m.used.Load() }

// OnShortage sets what is called when memory is needed that others keep: it gives up
// so many bytes of that, if it can, and returns how many it gave up. The stream's
// goroutine sets it, and calls it.
func (m *Memory) OnShortage(shed func(bytes int) int) { m.shed = shed }

// Use accounts for bytes that come into use elsewhere, on behalf of events, and
// whether they were kept until now. The stream's goroutine calls it. It never waits:
// reading does.
func (m *Memory) Use(bytes int, kept bool) {
	m.used.Add(int64(bytes))
	if kept {
		m.kept.Add(int64(-bytes))
		return
	}
	m.makeRoom()
}

// Unuse accounts for bytes that are no longer in use, and returns whether they may be
// kept for later. Any goroutine may call it.
func (m *Memory) Unuse(bytes int) (keep bool) {
	m.give(int64(bytes), false)
	return m.keep(bytes, nil)
}

// keep accounts for bytes that are kept for later, if there is room: a block here, or
// elsewhere.
func (m *Memory) keep(bytes int, b *Block) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over(bytes) > 0 {
		return false
	}
	m.kept.Add(int64(bytes))
	if b != nil {
		m.spare = append(m.spare, b)
	}
	return true
}

// over returns by how much the limit would be passed with so many bytes more.
func (m *Memory) over(more int) int64 {
	return m.used.Load() + m.kept.Load() + int64(more) - m.limit
}

// makeRoom gives up of what is kept as much as is needed now.
func (m *Memory) makeRoom() {
	for over := m.over(0); over > 0; over = m.over(0) {
		if m.reuse() == nil {
			m.kept.Add(int64(-m.shed(int(over))))
			return
		}
	}
}

// give takes bytes off those in use, and wakes the stream if that helps it.
func (m *Memory) give(bytes int64, wake bool) {
	used := m.used.Add(-bytes)
	if wake || used < m.limit && used+bytes >= m.limit {
		select {
		case m.freed <- struct{}{}:
		default:
		}
	}
}

// Block is a buffer of whole frames. It lives as long as its reader or any event
// in it.
type Block struct {
	memory *Memory
	refs   atomic.Int32
	buf    []byte
}

// Retain keeps the block for one more event.
func (b *Block) Retain() { b.refs.Add(1) }

// Charge accounts for so many bytes more that an event of the block takes until
// it is released.
func (b *Block) Charge(bytes int) { b.memory.used.Add(int64(bytes)) }

// Release gives up what Retain kept, and what was charged. Any goroutine may call
// it.
func (b *Block) Release(charged int) {
	m := b.memory
	if left := b.refs.Add(-1); left > 0 {
		// The last of them is the stream, unless it went first: it may be alone now.
		if alone := left == 1; alone || charged > 0 {
			m.give(int64(charged), alone)
		}
		return
	}
	m.out.Add(-1)
	m.give(int64(charged+len(b.buf)), true)
	if len(b.buf) == blockSize {
		m.keep(blockSize, b)
	}
}

// take returns a block of at least size bytes, or nil when that would pass the
// limit. own is the caller's block, if it has one: a frame larger than the limit is
// let through when no other and no event is there.
func (m *Memory) take(size int, own *Block) *Block {
	size = max(size, blockSize)
	if m.used.Load()+int64(size) > m.limit && !m.alone(own) {
		return nil
	}
	m.used.Add(int64(size))
	m.out.Add(1)
	var b *Block
	if size == blockSize {
		b = m.reuse()
	}
	if b == nil {
		m.makeRoom()
		b = &Block{memory: m, buf: make([]byte, size)}
	}
	b.refs.Store(1)
	return b
}

// alone tells whether no block is in use but the caller's own, and that by nobody else.
func (m *Memory) alone(own *Block) bool {
	if own == nil {
		return m.out.Load() == 0
	}
	return m.out.Load() == 1 && own.refs.Load() == 1
}

// reuse returns a block that was kept, or nil.
func (m *Memory) reuse() *Block {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.spare)
	if n == 0 {
		return nil
	}
	b := m.spare[n-1]
	m.spare[n-1] = nil
	m.spare = m.spare[:n-1]
	m.kept.Add(-blockSize)
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
		if b.block, b.w = b.memory.take(size, nil), 0; b.block != nil {
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
		b.block.Release(0)
		b.block = nil
	}
}
