package replication

import (
	"encoding/binary"
	"math"
	"net"
	"sync/atomic"
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
// suffer. In heavy traffic, or when everything is late anyway, it delays the next read
// by some milliseconds after one that brought few bytes. A delay is undisturbed: the
// kernel is told how much must have come before it wakes anyone (the receive low-water
// mark), or each segment would wake a thread of the Go runtime, which waits for all
// sockets at once. How full the socket may become meanwhile depends on the server, if
// it is near:
//
// A server that is behind, because there is a backlog, is to find the window
// closed. What arrives during a delay must then be more than the receive buffer
// holds, so the buffer is small, and as long as segments are small the delay is
// long: until some time after the window has closed, since what the server puts
// together is what it sends meanwhile. Once segments are large the server is fast,
// and the socket is read as soon as it is nearly full.
//
// A server that keeps up sends single segments, and must not find the window
// closed: each takes up to four times its bytes of the buffer's memory, and when
// that is full the kernel copies segments together, and then drops them, for the
// server to send again after some tenths of a second. So the buffer is large.
type pace struct {
	// never says that no read is delayed.
	never bool
	water lowWater
	// near is the socket; nil where it is left alone, since the server is far: a
	// small buffer would bound the throughput.
	near   nearSocket
	socket *socketUse
	// closing says that the receive buffer is to become smaller once the server has
	// sent what it was offered before; offered is how many bytes of that may be
	// still to come.
	closing bool
	offered int
	// paused says that reading has paused, and that the kernel may enlarge the
	// receive buffer since; enlarged, that it is read again and may be larger than
	// it should be.
	paused, enlarged bool

	heavy bool
	// smallRead says that the last read left the socket (nearly) empty, frequent that it
	// came soon after the one before, at lastRead.
	smallRead, frequent bool
	lastRead            time.Time
	// The traffic of the current window.
	since time.Time
	bytes int
	// What arrived since the segments were counted last.
	segments uint32
	arrived  int
	// When the newest transaction was committed, by the server's clock, and for how
	// long that was past when the server sent a message of it; in microseconds.
	committed, lag int64
	// delays counts reads that were delayed; nil: nobody asks.
	delays *atomic.Int64
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
// delay is a sleep.
type unmarked struct{}

func (unmarked) mark(int)                   {}
func (unmarked) await(atMost time.Duration) { time.Sleep(atMost) }
func (unmarked) ready()                     {}
func (unmarked) all() bool                  { return false }

// nearSocket is the TCP socket of a near server.
type nearSocket interface {
	// resize sets the receive buffer, and lets all of it be offered.
	resize(bytes int)
	// lock forbids the kernel to enlarge the receive buffer, or allows it. resize
	// forbids it, too.
	lock(on bool)
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
	// full is a socket that is not worth waiting for, enough a read that needs no
	// delay after it.
	full, enough int
}

var (
	// smallBuffer is for a server that is behind, or is far.
	smallBuffer = socketUse{buffer: 64 << 10, full: 48 << 10, enough: 32 << 10}
	// largeBuffer is for one that keeps up. Linux grants no more than twice
	// net.core.rmem_max, often 416 KiB, of which full may take nearly four times
	// its bytes.
	largeBuffer = socketUse{buffer: 512 << 10, full: 96 << 10, enough: 48 << 10}
)

const (
	// delayFor is the longest delay for a near server that keeps up, fillFor for any
	// other. If one that is behind sends segments of less than small bytes on
	// average, a delay is closeFor.
	delayFor = 5 * time.Millisecond
	fillFor  = 10 * time.Millisecond
	closeFor = 20 * time.Millisecond
	small    = 4 << 10
	// transaction is less than any transaction, of which the first message has 51
	// bytes and the last 56, and more than the two keepalives of 23 that may follow
	// one: those can wait for it, but no longer than frequentFor.
	transaction = 52
	frequentFor = 20 * time.Millisecond
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

// pace returns the pace of a stream over a connection, as the options ask for.
func (o *Options) pace(conn net.Conn) pace {
	p := neverDelays()
	if !o.NeverDelayReads {
		p = paceOf(conn)
	}
	p.delays = o.ReadDelays
	return p
}

// neverDelays returns a pace that delays no read and leaves the socket alone.
func neverDelays() pace { return pace{never: true} }

// paceOf returns the pace for a connection. One that is not TCP, such as a Unix socket,
// is never delayed: the server is held up after some hundred messages, however short,
// so that a delay would be all that it waits for; and each message wakes a reader that
// waits.
func paceOf(conn net.Conn) pace {
	if _, ok := conn.LocalAddr().(*net.TCPAddr); !ok {
		return neverDelays()
	}
	return newPace(water(conn), near(conn))
}

func newPace(water lowWater, near nearSocket) pace {
	p := pace{water: water, near: near, socket: &smallBuffer}
	if near != nil {
		p.use(&smallBuffer)
	}
	return p
}

// delay waits before a read, if it pays. midway says that a message has come in part.
func (p *pace) delay(midway bool) {
	if p.never {
		return
	}
	if p.smallRead {
		p.fit()
		switch behind := p.behind(); {
		case behind && p.smallSegments():
			// Until some time after the window has closed.
			p.count()
			p.water.mark(math.MaxInt32)
			time.Sleep(closeFor)
		case behind || p.heavy && p.near == nil:
			// Until the socket is nearly full: then the window is closed, and with
			// a longer round trip the server waits for us. That nothing more arrives
			// for a moment is no reason to end it: the server may only wait for a
			// processor, and reading now would open the window just before it fills.
			p.await(p.socket.full, fillFor)
		case p.heavy:
			p.await(p.socket.full, delayFor)
		case p.frequent && !p.open && !midway && p.water.all():
			// The server sends the messages of a transaction one by one.
			p.await(transaction, frequentFor)
		}
	}
	p.water.ready()
}

// count counts a delay.
func (p *pace) count() {
	if p.delays != nil {
		p.delays.Add(1)
	}
}

func (p *pace) await(bytes int, atMost time.Duration) {
	p.count()
	p.water.mark(bytes)
	p.water.await(atMost)
}

// pause is to be called when nothing is read for longer than a delay. The server goes
// on sending until the window is closed, and segments that are smaller than the unit
// in which windows are counted do not close it, while each takes several times its
// bytes of the receive buffer. If that may not grow, the kernel drops segments when it
// is full, and the server's next ones lie outside the window: all of them are refused,
// with the acknowledgements they carry of our status updates, so that the server soon
// hears nothing more from us; and after the pause it sends what was dropped only when
// its retransmission time-out has passed, which doubles up to two minutes.
//
// So the buffer grows during a pause, by some megabytes (a largeBuffer one's window times the
// overhead), and gets its size back in fit.
func (p *pace) pause() {
	if p.near != nil && !p.paused {
		p.paused = true
		p.near.lock(false)
	}
}

// fit makes the receive buffer fit the server, once a message has told whether it is
// behind. A buffer that became small at once would not hold what the server was
// offered before: that would be dropped, and sent again 200 ms later, TCP's shortest
// time-out in Linux. So the server is offered less first.
func (p *pace) fit() {
	if p.near == nil || p.committed == 0 {
		return
	}
	behind := p.behind()
	switch {
	case p.paused:
		// What came during the pause is read. The buffer stays as large as it has
		// become until the server has sent what it was offered.
		p.paused, p.enlarged = false, true
		p.near.lock(true)
	case p.enlarged:
	case !behind && (p.closing || p.socket == &smallBuffer):
		p.use(&largeBuffer)
		return
	case !behind || p.socket == &smallBuffer:
		return
	}
	want := &largeBuffer
	if behind {
		want = &smallBuffer
	}
	p.closing = true
	// Again each time: the kernel may lift the limit as data arrives.
	if p.offered = max(p.offered, p.near.limit(want.buffer)); p.offered <= 0 {
		p.use(want)
	}
}

// use changes how a near server's socket is used.
func (p *pace) use(socket *socketUse) {
	p.socket, p.closing, p.enlarged = socket, false, false
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
	if p.never {
		return
	}
	p.smallRead = n < p.socket.enough && n < room
	p.bytes += n
	p.arrived += n
	p.offered -= n
	p.frequent, p.lastRead = now.Sub(p.lastRead) < frequentFor, now
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
