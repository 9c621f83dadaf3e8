package sink

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/internal/event"
	"outboxd/internal/record"
)

const (
	// A chunk has room for so many bytes and events. Half a chunk of each pile is empty on
	// average, and what is left at its end. A larger event has a chunk of its own.
	chunkBytes  = 4 << 10
	chunkEvents = 24
	// chunkOverhead is what a chunk takes beside the bytes.
	chunkOverhead = 448
	// mostNames is how many names of headers are kept for all chunks.
	mostNames = 64
)

// chunk holds copies of events of one partition, in order: a waiting event takes what its
// bytes take, where a Delivery, and the client's share of it, is another kilobyte; and it
// keeps nothing of the block that it was read into, most of whose events may be gone long
// since. It is the Memory of those deliveries that are made of it.
type chunk struct {
	pool *chunks
	next *chunk // of the same pile
	refs atomic.Int32
	n    int32 // events
	buf  []byte
	// receipts are those of its events until they are unpacked.
	receipts [chunkEvents]Receipt
}

// bytes returns what the chunk takes in all.
func (c *chunk) bytes() int { return cap(c.buf) + chunkOverhead }

// Charge is for what is made of one of its events.
func (c *chunk) Charge(bytes int) { c.pool.budget.Acquire(bytes, false) }

// Release gives up one of its events, and takes off what was charged.
func (c *chunk) Release(charged int) {
	if charged > 0 && c.pool.budget.Release(charged) {
		c.pool.budget.Discard(charged)
	}
	if c.refs.Add(-1) == 0 {
		c.pool.put(c)
	}
}

// packed returns how many bytes a copy of the delivery takes.
func packed(d *Delivery) int {
	n := 4*binary.MaxVarintLen64 + 4*8 + len(d.Key) + len(d.Record.Value) + len(d.ID)
	for i := range d.Headers {
		n += 3*binary.MaxVarintLen32 + len(d.Headers[i].Key) + len(d.Headers[i].Value)
	}
	return n
}

// add copies the event if there is room for so many bytes, which packed says it takes, and
// accounts for what the client will make of it: what waits may be sent at any time.
func (c *chunk) add(d *Delivery, size int) bool {
	if c.n == chunkEvents || cap(c.buf)-len(c.buf) < size {
		return false
	}
	b := c.buf
	b = binary.LittleEndian.AppendUint64(b, uint64(d.Position.CommitLSN))
	b = binary.LittleEndian.AppendUint64(b, uint64(d.Position.Number)<<32|uint64(uint8(d.Clock)))
	b = binary.LittleEndian.AppendUint64(b, uint64(d.CommittedAt.UnixMicro()))
	b = binary.LittleEndian.AppendUint64(b, uint64(d.Timestamp.UnixMicro()))
	b = binary.AppendVarint(b, int64(d.Partition))
	b = appendBytes(b, d.Key)
	b = appendBytes(b, d.Record.Value)
	b = binary.AppendUvarint(b, uint64(len(d.Headers)))
	id := 0 // the header whose value the id is, from 1
	for i := range d.Headers {
		h := &d.Headers[i]
		name := c.pool.nameOf(h.Key)
		if b = binary.AppendUvarint(b, uint64(name)); name == 0 {
			b = binary.AppendUvarint(b, uint64(len(h.Key)))
			b = append(b, h.Key...)
		}
		b = appendBytes(b, h.Value)
		if len(h.Value) > 0 && len(h.Value) == len(d.ID) && &h.Value[0] == &d.ID[0] {
			id = i + 1
		}
	}
	if b = binary.AppendUvarint(b, uint64(id)); id == 0 {
		b = appendBytes(b, d.ID)
	}
	c.buf = b
	c.receipts[c.n] = d.Receipt
	c.n++
	if n := wired(d.Record.Value); n > 0 {
		c.Charge(n)
	}
	return true
}

// appendBytes appends v so that nil is told from empty.
func appendBytes(b, v []byte) []byte {
	if v == nil {
		return append(b, 0)
	}
	return append(binary.AppendUvarint(b, uint64(len(v))+1), v...)
}

// unpacker reads a chunk from its beginning. What it returns are views.
type unpacker struct {
	rest  []byte
	names []string
}

func (u *unpacker) uint64() uint64 {
	v := binary.LittleEndian.Uint64(u.rest)
	u.rest = u.rest[8:]
	return v
}

func (u *unpacker) uvarint() int {
	v, n := binary.Uvarint(u.rest)
	u.rest = u.rest[n:]
	return int(v)
}

func (u *unpacker) take(n int) []byte {
	v := u.rest[:n:n]
	u.rest = u.rest[n:]
	return v
}

func (u *unpacker) bytes() []byte {
	n := u.uvarint()
	if n == 0 {
		return nil
	}
	return u.take(n - 1)
}

// event makes a delivery of the next event, all but its topic, its receipt and its memory.
func (u *unpacker) event(d *Delivery) {
	lsn, rest := u.uint64(), u.uint64()
	d.Position = event.Position{CommitLSN: pglogrepl.LSN(lsn), Number: uint32(rest >> 32)}
	d.Clock = record.Clock(uint8(rest))
	d.CommittedAt = time.UnixMicro(int64(u.uint64()))
	d.Timestamp = time.UnixMicro(int64(u.uint64()))
	partition, n := binary.Varint(u.rest)
	u.rest = u.rest[n:]
	d.Partition = int32(partition)
	d.Key = u.bytes()
	d.Record.Value = u.bytes()
	for range u.uvarint() {
		name := ""
		if n := u.uvarint(); n > 0 {
			name = u.names[n-1]
		} else {
			name = string(u.take(u.uvarint()))
		}
		d.AddHeader(name, u.bytes())
	}
	if id := u.uvarint(); id > 0 {
		d.ID = d.Headers[id-1].Value
	} else {
		d.ID = u.bytes()
	}
}

// chunks are those that are kept to be used again.
type chunks struct {
	budget Budget
	// names are those of headers, which are nearly always the same few. The backlog's mutex
	// guards them.
	names []string
	// sent counts events that were sent and are not answered. When no more than enough are,
	// wake is called once if that is wanted.
	sent   atomic.Int64
	enough int64
	wanted atomic.Bool
	wake   func()

	mu     sync.Mutex
	free   []*chunk
	closed bool // nothing is kept any more
}

// nameOf returns which of the names it is, from 1, or 0 for none of them.
func (p *chunks) nameOf(name string) int {
	for i, known := range p.names {
		if known == name {
			return i + 1
		}
	}
	if len(p.names) == mostNames {
		return 0
	}
	p.names = append(p.names, strings.Clone(name))
	return len(p.names)
}

// get returns an empty chunk with room for an event of so many bytes.
func (p *chunks) get(size int) *chunk {
	if size > chunkBytes {
		c := &chunk{pool: p, buf: make([]byte, 0, size)}
		p.budget.Acquire(c.bytes(), false)
		return c
	}
	c := p.reuse()
	if c == nil {
		c = &chunk{pool: p, buf: make([]byte, 0, chunkBytes)}
		p.budget.Acquire(c.bytes(), false)
		return c
	}
	p.budget.Acquire(c.bytes(), true)
	return c
}

func (p *chunks) reuse() *chunk {
	p.mu.Lock()
	defer p.mu.Unlock()
	return pop(&p.free)
}

// put takes back a chunk that none of its events needs. Any goroutine may call it.
func (p *chunks) put(c *chunk) {
	p.sent.Add(-int64(c.n))
	p.wakeIfWanted()
	bytes := c.bytes()
	if !p.budget.Release(bytes) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || cap(c.buf) != chunkBytes {
		p.budget.Discard(bytes)
		return
	}
	c.buf, c.n, c.next = c.buf[:0], 0, nil
	p.free = append(p.free, c)
}

// tooMany tells whether most events or more are sent and not answered. If so, wake is
// called when no more than enough are.
func (p *chunks) tooMany(most int64) bool {
	if p.sent.Load() < most {
		return false
	}
	p.wanted.Store(true)
	p.wakeIfWanted() // they may have been answered in between
	return true
}

func (p *chunks) wakeIfWanted() {
	if p.wanted.Load() && p.sent.Load() <= p.enough && p.wanted.CompareAndSwap(true, false) {
		p.wake()
	}
}

// close gives up what is kept, now and when more comes back.
func (p *chunks) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.budget.Discard(len(p.free) * (chunkBytes + chunkOverhead))
	p.free = nil
}

// shed gives up chunks that are kept, those first that have not been used for longest.
func (p *chunks) shed(bytes int) (shed int) {
	const size = chunkBytes + chunkOverhead
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.free), (bytes+size-1)/size)
	p.free = slices.Delete(p.free, 0, n)
	return n * size
}

// send makes deliveries of the chunk's events and gives them to f, which takes them over.
func (c *chunk) send(ctx context.Context, p *pile, from *spares, f func(*Delivery)) {
	n := c.n
	c.pool.sent.Add(int64(n))
	c.refs.Store(n) // f may have the first ones released
	u := unpacker{c.buf, c.pool.names}
	for i := range n {
		d := from.get(ctx)
		u.event(d)
		d.topic, d.count, d.place = p.topic, p.count, p.place
		d.Topic = p.topic.name
		d.Receipt, d.Memory = c.receipts[i], c
		c.receipts[i] = nil
		d.size = wireSize(&d.Record.Record)
		d.charged = wired(d.Record.Value) // since it was copied
		f(d)
	}
}
