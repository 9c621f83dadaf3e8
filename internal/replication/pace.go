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
// The window is closed when what arrives during a rest is more than the receive
// buffer holds, so the buffer must be small: at the rate of single segments, some
// 15 MB/s on a slow machine, a rest of 10 ms has to fill it. Once closed it stays
// so, since the server is fast then.
//
// So under a backlog the stream rests a little when a read brought little, and
// when traffic is light it reads at once, so that latency does not suffer.
type pace struct {
	// readable tells how many bytes the socket holds; nil where that cannot be
	// asked.
	readable func() int
	bulk     bool
	// little says that the last read left the socket (nearly) empty.
	little bool
	// The traffic of the current window.
	since time.Time
	bytes int
}

const (
	// receiveBuffer is the socket's buffer (SO_RCVBUF) where the server is near.
	receiveBuffer = 64 << 10
	// plenty is a read that needs no rest after it.
	plenty = receiveBuffer / 2
	// restFor is the longest rest.
	restFor   = 10 * time.Millisecond
	restSlice = time.Millisecond
	// full is a socket that is not worth waiting for.
	full = receiveBuffer / 4 * 3
	// Traffic above bulkRate in a window is a backlog; below calmRate it is
	// not. In bytes a second.
	bulkRate   = 4 << 20
	calmRate   = 2 << 20
	rateWindow = 10 * time.Millisecond
)

// rest waits, if it pays, until the socket is nearly full: then the window is
// closed, and with a longer round trip the server waits for us. That nothing more
// arrives for a moment is no reason to end it: the server may only wait for a
// processor, and reading now would open the window just before it fills.
func (p *pace) rest() {
	if !p.bulk || !p.little {
		return
	}
	if p.readable == nil {
		time.Sleep(restFor)
		return
	}
	for range restFor / restSlice {
		time.Sleep(restSlice)
		if p.readable() >= full {
			return
		}
	}
}

// read notes that a read brought n bytes, out of as many as there was room for.
func (p *pace) read(n, room int) {
	p.little = n < plenty && n < room
	p.bytes += n
	now := time.Now()
	elapsed := now.Sub(p.since)
	if elapsed < rateWindow {
		return
	}
	rate := float64(p.bytes) / elapsed.Seconds()
	if p.bulk {
		p.bulk = rate > calmRate
	} else {
		p.bulk = rate > bulkRate
	}
	p.since, p.bytes = now, 0
}
