package simulate

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// What the ends of a connection see that was cut, and who finds no server, as the
// system says it: clients tell such faults from others by their type.
var (
	errReset   error = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	errRefused error = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
)

// pipe is one direction of a connection: the sender's socket, the network, and the
// receiver's socket. One goroutine writes at a time, and one reads.
type pipe struct {
	limit int // bytes that are taken before a writer waits

	mu    sync.Mutex
	queue []chunk
	bytes int
	// eof follows on the queue, reset is seen at once and loses the queue.
	eof, reset bool
	// silent holds everything back, also the end.
	silent  bool
	latency time.Duration
	// onWrite, if set, is called once, instead of the next write.
	onWrite func()

	readBy, writeBy time.Time // deadlines
	// readable and writable wake who waits; nil: nobody ever has.
	readable, writable chan struct{}
	// readTimer and writeTimer are used again; nil: nobody has waited for a time.
	readTimer, writeTimer *time.Timer
}

type chunk struct {
	data []byte
	due  time.Time
}

// wake wakes who waits for a signal; nil: nobody does.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// change changes the pipe and wakes who waits for it.
func (p *pipe) change(f func()) {
	p.mu.Lock()
	f()
	readable, writable := p.readable, p.writable
	p.mu.Unlock()
	wake(readable)
	wake(writable)
}

// signal makes a signal that somebody is about to wait for. The caller holds mu.
func signal(c *chan struct{}) chan struct{} {
	if *c == nil {
		*c = make(chan struct{}, 1)
	}
	return *c
}

func (p *pipe) read(b []byte) (int, error) {
	for {
		p.mu.Lock()
		now := time.Now()
		var wait time.Duration
		switch {
		case p.reset:
			p.mu.Unlock()
			return 0, errReset
		case !p.readBy.IsZero() && !now.Before(p.readBy):
			p.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case p.silent:
		case len(p.queue) > 0 && !p.queue[0].due.After(now):
			n := p.take(b, now)
			writable := p.writable
			p.mu.Unlock()
			wake(writable)
			return n, nil
		case len(p.queue) > 0:
			wait = p.queue[0].due.Sub(now)
		case p.eof:
			p.mu.Unlock()
			return 0, io.EOF
		}
		if !p.readBy.IsZero() && (wait == 0 || p.readBy.Sub(now) < wait) {
			wait = p.readBy.Sub(now)
		}
		readable := signal(&p.readable)
		p.mu.Unlock()
		await(readable, wait, &p.readTimer)
	}
}

// take moves what is due to b. The caller holds mu.
func (p *pipe) take(b []byte, now time.Time) (n int) {
	for len(p.queue) > 0 && n < len(b) && !p.queue[0].due.After(now) {
		c := &p.queue[0]
		k := copy(b[n:], c.data)
		n += k
		if c.data = c.data[k:]; len(c.data) == 0 {
			p.queue[0] = chunk{}
			p.queue = p.queue[1:]
		}
	}
	p.bytes -= n
	return n
}

// await waits for a signal, but for no longer than limit; 0 is for ever. timer belongs to
// who waits.
func await(signal <-chan struct{}, limit time.Duration, timer **time.Timer) {
	if limit == 0 {
		<-signal
		return
	}
	if *timer == nil {
		*timer = time.NewTimer(limit)
	} else {
		(*timer).Reset(limit)
	}
	select {
	case <-signal:
		(*timer).Stop()
	case <-(*timer).C:
	}
}

func (p *pipe) write(b []byte) (int, error) {
	for {
		p.mu.Lock()
		now := time.Now()
		switch {
		case p.reset || p.eof:
			p.mu.Unlock()
			return 0, errReset
		case p.onWrite != nil:
			f := p.onWrite
			p.onWrite = nil
			p.mu.Unlock()
			f()
			continue
		case p.bytes == 0 || p.bytes+len(b) <= p.limit:
			p.queue = append(p.queue, chunk{append([]byte(nil), b...), now.Add(p.latency)})
			p.bytes += len(b)
			readable := p.readable
			p.mu.Unlock()
			wake(readable)
			return len(b), nil
		case !p.writeBy.IsZero() && !now.Before(p.writeBy):
			p.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		}
		var wait time.Duration
		if !p.writeBy.IsZero() {
			wait = p.writeBy.Sub(now)
		}
		writable := signal(&p.writable)
		p.mu.Unlock()
		await(writable, wait, &p.writeTimer)
	}
}

// conn is one end of a connection. The client's end belongs to a process, which may
// be paused: then it neither reads nor writes.
type conn struct {
	in, out       *pipe
	process       *process // nil at the server's end
	link          *link
	local, remote address
	writes        *atomic.Int64 // if not nil, counts the writes
}

type address string

func (address) Network() string  { return "simulated" }
func (a address) String() string { return string(a) }

// link is a connection, as the world sees it.
type link struct {
	client, server *conn
	up, down       *pipe // to the server, and to the client
	to             address
	// late says that what a process has written arrives although the process has
	// closed the connection, or ended, while the network was silent.
	late bool

	mu   sync.Mutex
	over bool          // closed or cut
	calm chan struct{} // closed when the network is no longer silent; nil: it is not
}

// newLink connects a process to a server. limit bounds what either end may have sent
// that the other has not read.
func newLink(p *process, from, to address, limit int) *link {
	made := new(struct { // a seed makes hundreds
		link
		client, server conn
		up, down       pipe
	})
	l := &made.link
	l.client, l.server, l.up, l.down, l.to = &made.client, &made.server, &made.up, &made.down, to
	l.up.limit, l.down.limit = limit, limit
	*l.client = conn{in: l.down, out: l.up, process: p, link: l, local: from, remote: to}
	*l.server = conn{in: l.up, out: l.down, link: l, local: to, remote: from}
	return l
}

// cut ends the connection for both ends; what is on its way is lost.
func (l *link) cut() {
	l.end()
	for _, p := range []*pipe{l.up, l.down} {
		p.change(func() { p.reset, p.queue, p.bytes = true, nil, 0 })
	}
}

// end notes that the connection is closed.
func (l *link) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}

func (l *link) ended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// done reports whether nothing comes of the connection any more.
func (l *link) done() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over && l.calm == nil
}

// gone reports whether the connection is done, and nothing is on its way to the server.
func (l *link) gone() bool {
	l.up.mu.Lock()
	defer l.up.mu.Unlock()
	return len(l.up.queue) == 0 && l.done()
}

// passes waits until the network is not silent, or an end of ctx, or for limit.
func (l *link) passes(ctx context.Context, limit time.Duration) error {
	l.mu.Lock()
	calm, over := l.calm, l.over
	l.mu.Unlock()
	if over {
		return errReset
	}
	if calm == nil {
		return ctx.Err()
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-calm:
		return l.passes(ctx, limit)
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return os.ErrDeadlineExceeded
	}
}

// silence holds back what both ends send, or lets it go.
func (l *link) silence(on bool) {
	l.mu.Lock()
	switch {
	case on && l.calm == nil:
		l.calm = make(chan struct{})
	case !on && l.calm != nil:
		close(l.calm)
		l.calm = nil
	}
	l.mu.Unlock()
	for _, p := range []*pipe{l.up, l.down} {
		p.change(func() { p.silent = on })
	}
}

// slow sets for how long what is sent is on its way.
func (l *link) slow(up, down time.Duration) {
	l.up.change(func() { l.up.latency = up })
	l.down.change(func() { l.down.latency = down })
}

// loseAnswer cuts the connection instead of what the server sends next: it has done
// what was asked, and the client never hears of it.
func (l *link) loseAnswer() {
	l.down.change(func() { l.down.onWrite = l.cut })
}

// abandon is the end of the client's process, which may have closed the connection
// before. arrives says that what it has sent arrives still: at once, if not late.
func (l *link) abandon(arrives bool) {
	l.end()
	l.down.change(func() { l.down.reset, l.down.queue, l.down.bytes = true, nil, 0 })
	l.up.change(func() {
		l.up.eof = true
		switch now := time.Now(); {
		case !arrives, l.up.silent && !l.late:
			l.up.queue, l.up.bytes = nil, 0
		case !l.late:
			for i := range l.up.queue {
				l.up.queue[i].due = now
			}
		}
	})
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b)
	if c.process != nil {
		if gate := c.process.gate(); gate != nil {
			return 0, gate
		}
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if c.process != nil {
		if err := c.process.gate(); err != nil {
			return 0, err
		}
	}
	if c.writes != nil {
		c.writes.Add(1)
	}
	return c.out.write(b)
}

// Close ends the connection in order: what was sent arrives, if the network is not
// silent.
func (c *conn) Close() error {
	c.link.end()
	c.in.change(func() { c.in.reset, c.in.queue, c.in.bytes = true, nil, 0 })
	c.out.change(func() {
		if c.out.silent && !c.link.late {
			c.out.queue, c.out.bytes = nil, 0
		}
		c.out.eof = true
	})
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.change(func() { c.in.readBy = t })
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.change(func() { c.out.writeBy = t })
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}
