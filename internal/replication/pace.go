package replication

import (
	"encoding/binary"
	"math"
	"net"
	"time"
)

// pace decides when to read. PostgreSQL's walsender makes one send call a message
// as long as the socket has room; each becomes a TCP segment of its own, with an
// interrupt, a wake-up of the reader and a switch between the two, more than
// decoding the row. When the receiver's window is closed, TCP puts the messages
// together instead, and they leave in segments of up to 64 KiB. Measured with
// one-row transactions: two segments an event, or one for fifty events at three
// times the rate (the bench's scenario "reading" counts them).
//
// So the stream reads at once when traffic is light, so that latency does not
// suffer, and in heavy traffic, or when everything is late anyway, rests a little
// after a read that brought little. A rest is undisturbed: the kernel is told how much
// must have come before it wakes anyone (the receive low-water mark), or each segment
// would wake a thread of the Go runtime, which waits for all sockets at once. How full
// the socket may become meanwhile depends on the server, if it is near:
//
// A server that is behind, because there is a backlog, is to find the window
// closed. What arrives during a rest must then be more than the receive buffer
// holds, so the buffer is small, and as long as segments are small the rest is
// long: until some time after the window has closed, since what the server puts
// together is what it sends meanwhile. Once segments are large the server is fast,
// and the socket is read as soon as it is nearly full.
//
// A server that keeps up sends single segments, and must not find the window
// closed: each takes up to four times its bytes of the buffer's memory, and when
// that is full the kernel copies segments together, and then drops them, for the
// server to send again after some tenths of a second. So the buffer is large.
type pace struct {
	water lowWater
	// near is the socket; nil where it is left alone, since the server is far: a
	// small buffer would bound the throughput.
	near   nearSocket
	socket *socketUse
	// closing says that the receive buffer is to become small once the server has
	// sent what it was offered before; offered is how many bytes of that may be
	// still to come.
	closing bool
	offered int

	heavy bool
	// little says that the last read left the socket (nearly) empty, brisk that it
	// came soon after the one before, at lastRead.
	little, brisk bool
	lastRead      time.Time
	// The traffic of the current window.
	since time.Time
	bytes int
	// What arrived since the segments were counted last.
	segments uint32
	arrived  int
	// When the newest transaction was committed, by the server's clock, and for how
	// long that was past when the server sent a message of it; in microseconds.
	committed, lag int64
	// open says that a transaction has begun and its end is still to come.
	open bool
}

// lowWater is a socket that tells how much must have come before it wakes a reader.
type lowWater interface {
	// mark sets how many bytes that are.
	mark(bytes int)
	// await waits until the socket holds so many or takes no more, for no longer
	// than it is told. It sets the read deadline; one that is set meanwhile counts.
	await(atMost time.Duration)
	// ready makes sure that the first byte ends the next Read.
	ready()
	// all tells whether the socket holds all that has come since the last Read. TLS
	// may hold a part of a record.
	all() bool
}

// unmarked is a connection without a low-water mark. What it holds is not known, and a
// rest is a sleep.
type unmarked struct{}

func (unmarked) mark(int)                   {}
func (unmarked) await(atMost time.Duration) { time.Sleep(atMost) }
func (unmarked) ready()                     {}
func (unmarked) all() bool                  { return false }

// restless is a connection that is not TCP, such as a Unix socket: the server is held
// up after some hundred messages, however short, so that a rest would be all that it
// waits for. And each message wakes a reader that rests.
type restless struct{ unmarked }

func (restless) await(time.Duration) {}

// nearSocket is the TCP socket of a near server.
type nearSocket interface {
	// resize sets the receive buffer, and lets all of it be offered.
	resize(bytes int)
	// limit makes the server be offered no more than a receive buffer of so many
	// bytes holds. It returns how many bytes the server may have been offered
	// without the limit, which cannot be taken back; 0 if it was in force already.
	limit(buffer int) (offered int)
	// segments returns how many segments with data have arrived; it wraps around.
	segments() uint32
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
	// restFor is the longest rest for a near server that keeps up, fillFor for any
	// other. If one that is behind sends segments of less than small bytes on
	// average, a rest is closeFor.
	restFor  = 5 * time.Millisecond
	fillFor  = 10 * time.Millisecond
	closeFor = 20 * time.Millisecond
	small    = 4 << 10
	// transaction is less than any transaction, of which the first message has 51
	// bytes and the last 56, and more than the two keepalives of 23 that may follow
	// one: those can wait for it, but no longer than briskFor.
	transaction = 52
	briskFor    = 20 * time.Millisecond
	// A server is behind that sends what it committed longer ago than lateBy in heavy
	// traffic: the sooner it is helped, the less it falls behind. In light traffic
	// that may be a slow disk, and behindBy counts.
	lateBy   = 30 * time.Millisecond
	behindBy = 100 * time.Millisecond
	// Traffic above heavyRate in a window is heavy; below lightRate it no longer
	// is. In bytes a second.
	heavyRate  = 4 << 20
	lightRate  = 2 << 20
	rateWindow = 10 * time.Millisecond
)

// paceOf returns the pace for a connection.
func paceOf(conn net.Conn) pace {
	if _, ok := conn.LocalAddr().(*net.TCPAddr); !ok {
		return newPace(restless{}, nil)
	}
	return newPace(water(conn), near(conn))
}

func newPace(water lowWater, near nearSocket) pace {
	p := pace{water: water, near: near, socket: &narrow}
	if near != nil {
		p.use(&narrow)
	}
	return p
}

// rest waits before a read, if it pays. midway says that a message has come in part.
func (p *pace) rest(midway bool) {
	if p.little {
		p.fit()
		switch behind := p.behind(); {
		case behind && p.smallSegments():
			// Until some time after the window has closed.
			p.water.mark(math.MaxInt32)
			time.Sleep(closeFor)
		case behind || p.heavy && p.near == nil:
			// Until the socket is nearly full: then the window is closed, and with
			// a longer round trip the server waits for us. That nothing more arrives
			// for a moment is no reason to end it: the server may only wait for a
			// processor, and reading now would open the window just before it fills.
			p.await(p.socket.full, fillFor)
		case p.heavy:
			p.await(p.socket.full, restFor)
		case p.brisk && !p.open && !midway && p.water.all():
			// The server sends the messages of a transaction one by one.
			p.await(transaction, briskFor)
		}
	}
	p.water.ready()
}

func (p *pace) await(bytes int, atMost time.Duration) {
	p.water.mark(bytes)
	p.water.await(atMost)
}

// fit makes the receive buffer fit the server, once a message has told whether it is
// behind. A buffer that became small at once would not hold what the server was
// offered before: that would be dropped, and sent again 200 ms later, TCP's shortest
// time-out in Linux. So the server is offered less first.
func (p *pace) fit() {
	if p.near == nil || p.committed == 0 {
		return
	}
	switch behind := p.behind(); {
	case !behind && (p.closing || p.socket == &narrow):
		p.use(&wide)
	case behind && p.socket == &wide:
		p.closing = true
		// Again each time: the kernel may lift the limit as data arrives.
		if p.offered = max(p.offered, p.near.limit(narrow.buffer)); p.offered <= 0 {
			p.use(&narrow)
		}
	}
}

// use changes how a near server's socket is used.
func (p *pace) use(socket *socketUse) {
	p.socket, p.closing = socket, false
	p.near.resize(socket.buffer)
}

// behind tells whether a near server sends what it committed some time ago.
func (p *pace) behind() bool {
	allowed := behindBy
	if p.heavy {
		allowed = lateBy
	}
	return p.near != nil && p.lag > allowed.Microseconds()
}

// message notes a pgoutput message and when it was sent, in microseconds of the
// server's clock ("Logical Replication Message Formats" in PostgreSQL's
// documentation). A logical decoding message may be in no transaction.
func (p *pace) message(sent int64, m []byte) {
	switch {
	case len(m) >= 17 && m[0] == 'B':
		p.committed = int64(binary.BigEndian.Uint64(m[9:]))
		p.lag, p.open = sent-p.committed, true
	case len(m) > 0 && (m[0] == 'I' || m[0] == 'C'):
		p.lag, p.open = sent-p.committed, m[0] == 'I'
	}
}

// smallSegments tells whether segments have been small since it was asked last.
func (p *pace) smallSegments() bool {
	now := p.near.segments()
	n, bytes := now-p.segments, p.arrived
	p.segments, p.arrived = now, 0
	return bytes < small*int(n)
}

// read notes that a read brought n bytes just now, out of as many as there was room for.
func (p *pace) read(n, room int, now time.Time) {
	p.little = n < p.socket.plenty && n < room
	p.bytes += n
	p.arrived += n
	p.offered -= n
	p.brisk, p.lastRead = now.Sub(p.lastRead) < briskFor, now
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
