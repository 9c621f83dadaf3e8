package replication

import "time"

// pace decides when to read. PostgreSQL's walsender makes one send call a message
// as long as the socket has room; each becomes a TCP segment of its own, with an
// interrupt, a wake-up of the reader and a switch between the two, more than
// decoding the row. When the receiver's window is closed, TCP puts the messages
// together instead, and they leave in segments of up to 64 KiB. Measured with
// one-row transactions: two segments an event, or one for fifty events at three
// times the rate (the bench's scenario "reading" counts them).
//
// So the stream reads at once when traffic is light, so that latency does not
// suffer, and in heavy traffic rests a little after a read that brought little. How
// full the socket may become meanwhile depends on the server:
//
// A server that is behind, because there is a backlog, is to find the window
// closed. What arrives during a rest must then be more than the receive buffer
// holds, so the buffer is small: at the rate of single segments, some 15 MB/s on a
// slow machine, a rest of 10 ms has to fill it. Once closed it stays so, since the
// server is fast then.
//
// A server that keeps up sends single segments, and must not find the window
// closed: each takes up to four times its bytes of the buffer's memory, and when
// that is full the kernel copies segments together, and then drops them, for the
// server to send again after some tenths of a second. So the buffer is large.
type pace struct {
	// readable tells how many bytes the socket holds; nil where that cannot be
	// asked.
	readable func() int
	// resize sets the socket's receive buffer; nil where it is left alone, since
	// the server is far: a small buffer would bound the throughput.
	resize func(bytes int)
	socket *socketUse

	heavy bool
	// little says that the last read left the socket (nearly) empty.
	little bool
	// The traffic of the current window.
	since time.Time
	bytes int
	// When the server sent the newest message, and when its transaction was
	// committed; both in microseconds of the server's clock.
	sent, committed int64
}

// socketUse is how the socket is used.
type socketUse struct {
	buffer int // receive buffer (SO_RCVBUF), in bytes
	// full is a socket that is not worth waiting for, plenty a read that needs no
	// rest after it.
	full, plenty int
}

var (
	// narrow is for a server that is behind, or is far.
	narrow = socketUse{buffer: 64 << 10, full: 48 << 10, plenty: 32 << 10}
	// wide is for one that keeps up. Linux grants no more than twice
	// net.core.rmem_max, often 416 KiB, of which full may take nearly four times
	// its bytes.
	wide = socketUse{buffer: 512 << 10, full: 96 << 10, plenty: 48 << 10}
)

const (
	// restFor is the longest rest.
	restFor   = 10 * time.Millisecond
	restSlice = time.Millisecond
	// behind is how long ago the server committed what it sends, if it is behind.
	behind = 100 * time.Millisecond
	// Traffic above heavyRate in a window is heavy; below lightRate it no longer
	// is. In bytes a second.
	heavyRate  = 4 << 20
	lightRate  = 2 << 20
	rateWindow = 10 * time.Millisecond
)

func newPace(readable func() int, resize func(bytes int)) pace {
	p := pace{readable: readable, resize: resize, socket: &narrow}
	if resize != nil {
		p.socket = &wide
		resize(wide.buffer)
	}
	return p
}

// rest waits, if it pays, until the socket is nearly full: then the window is
// closed, and with a longer round trip the server waits for us. That nothing more
// arrives for a moment is no reason to end it: the server may only wait for a
// processor, and reading now would open the window just before it fills.
func (p *pace) rest() {
	if !p.heavy || !p.little {
		return
	}
	p.fit()
	if p.readable == nil {
		time.Sleep(restFor)
		return
	}
	for range restFor / restSlice {
		time.Sleep(restSlice)
		if p.readable() >= p.socket.full {
			return
		}
	}
}

// fit makes the receive buffer fit the server.
func (p *pace) fit() {
	if p.resize == nil {
		return
	}
	use := &wide
	if p.sent-p.committed > behind.Microseconds() {
		use = &narrow
	}
	if use != p.socket {
		p.socket = use
		p.resize(use.buffer)
	}
}

// read notes that a read brought n bytes, out of as many as there was room for.
func (p *pace) read(n, room int) {
	p.little = n < p.socket.plenty && n < room
	p.bytes += n
	now := time.Now()
	elapsed := now.Sub(p.since)
	if elapsed < rateWindow {
		return
	}
	rate := float64(p.bytes) / elapsed.Seconds()
	if p.heavy {
		p.heavy = rate > lightRate
	} else {
		p.heavy = rate > heavyRate
	}
	p.since, p.bytes = now, 0
}
