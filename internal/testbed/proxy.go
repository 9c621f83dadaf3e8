package testbed

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Direction is a way through a [Proxy].
type Direction int

// The client is who connects to the proxy, the server is the proxy's target.
const (
	ClientToServer Direction = 1
	ServerToClient Direction = 2
	Both           Direction = ClientToServer | ServerToClient
)

// Proxy forwards TCP connections to a target and makes them fail on demand.
// Its address never changes while the target may, so a server that comes back
// elsewhere is still "the same server" to a client. All methods may be called
// from several goroutines at once; a fault holds for the connections there are
// and for those to come.
type Proxy struct {
	listener net.Listener
	port     *port
	done     sync.WaitGroup

	mu     sync.Mutex
	change *sync.Cond // stalled, closed or a link's state has changed
	target string
	closed bool
	refuse bool
	stall  Direction // directions that hold their bytes
	drop   Direction // directions that discard their bytes
	limit  Direction // directions whose bytes count against quota
	quota  int64     // bytes that still pass before all connections are cut
	links  map[*link]struct{}
}

// link is one client connection and, once made, its connection to the target.
type link struct {
	client net.Conn
	server net.Conn
	cut    bool
}

// NewProxy starts a proxy to target (host:port) on a free port of 127.0.0.1.
// The target need not be there yet, and may be empty until SetTarget: a client
// that comes too early is accepted and closed.
func NewProxy(target string) (*Proxy, error) {
	port, err := takePort()
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	l, err := net.Listen("tcp", port.addr())
	if err != nil {
		port.release()
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	p := &Proxy{listener: l, port: port, target: target, links: make(map[*link]struct{})}
	p.change = sync.NewCond(&p.mu)
	p.done.Add(1)
	go p.accept()
	return p, nil
}

// Addr returns the proxy's own address, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// SetTarget sends the connections to come to another address; those there are
// stay where they are until Cut.
func (p *Proxy) SetTarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Connections returns how many client connections are open.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Cut closes all connections there are. Bytes held by Stall are lost with
// them, and what DropAndCut began ends.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutLocked()
}

func (p *Proxy) cutLocked() {
	for l := range p.links {
		l.close()
	}
	p.drop = 0
	p.change.Broadcast()
}

// Refuse makes the proxy accept new connections and close them at once, as a
// load balancer without a backend does. Connections there are stay.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}

// Stall stops forwarding a direction but keeps its connections: what arrives
// is held, up to what buffers take, and delivered when the stall is lifted.
// Neither side sees the other close meanwhile.
func (p *Proxy) Stall(d Direction, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on {
		p.stall |= d
	} else {
		p.stall &^= d
	}
	p.change.Broadcast()
}

// DropAndCut discards, from now on, every byte that goes in a direction, until
// Cut closes the connections and forwarding is whole again. So a request
// reaches the server while its answer never reaches the client.
func (p *Proxy) DropAndCut(d Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop |= d
}

// CutAfter lets n more bytes pass in a direction, counted over all connections
// together, and then cuts all of them, once. The bytes that passed do arrive.
// A call replaces the one before; n <= 0 cuts at the next byte.
func (p *Proxy) CutAfter(d Direction, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit, p.quota = d, max(n, 0)
}

// Close ends the proxy and all its connections. Closing twice is harmless.
func (p *Proxy) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		_ = p.listener.Close()
		p.cutLocked()
		p.port.release()
	}
	p.mu.Unlock()
	p.done.Wait()
}

func (p *Proxy) accept() {
	defer p.done.Done()
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return // closed: nothing else ends a listener on 127.0.0.1
		}
		l := &link{client: conn}
		p.mu.Lock()
		if p.closed || p.refuse || p.target == "" {
			p.mu.Unlock()
			_ = conn.Close()
			continue
		}
		p.links[l] = struct{}{}
		target := p.target
		p.done.Add(1)
		p.mu.Unlock()
		go p.serve(l, target)
	}
}

func (p *Proxy) serve(l *link, target string) {
	defer p.done.Done()
	defer func() {
		p.mu.Lock()
		l.close()
		delete(p.links, l)
		p.mu.Unlock()
	}()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	p.mu.Lock()
	l.server = server
	if l.cut { // while we were dialling
		_ = server.Close()
	}
	p.mu.Unlock()

	var both sync.WaitGroup
	both.Go(func() { p.forward(l, ClientToServer, l.client, server) })
	both.Go(func() { p.forward(l, ServerToClient, server, l.client) })
	both.Wait()
}

// forward copies one direction of a link until it ends.
func (p *Proxy) forward(l *link, d Direction, from, to net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, readErr := from.Read(buf)
		pass, cutNow := p.admit(l, d, n, readErr != nil)
		if pass > 0 {
			if _, err := to.Write(buf[:pass]); err != nil {
				p.closeLink(l)
				return
			}
		}
		if cutNow {
			p.Cut()
			return
		}
		if readErr != nil {
			// Closed in good order, only this direction has ended.
			half, ok := to.(*net.TCPConn)
			if !errors.Is(readErr, io.EOF) || !ok || half.CloseWrite() != nil {
				p.closeLink(l)
			}
			return
		}
	}
}

// admit waits while the direction is stalled, then says how many of n bytes may
// pass and whether all connections are to be cut after them.
func (p *Proxy) admit(l *link, d Direction, n int, ended bool) (pass int, cutNow bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.stall&d != 0 && !l.cut && (n > 0 || ended) {
		p.change.Wait()
	}
	if l.cut || p.drop&d != 0 {
		return 0, false
	}
	if p.limit&d != 0 && n > 0 {
		if int64(n) >= p.quota {
			n, cutNow = int(p.quota), true
			p.limit = 0
		}
		p.quota -= int64(n)
	}
	return n, cutNow
}

func (p *Proxy) closeLink(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.close()
	p.change.Broadcast()
}

// close closes both sides. The caller holds the proxy's lock.
func (l *link) close() {
	l.cut = true
	_ = l.client.Close()
	if l.server != nil {
		_ = l.server.Close()
	}
}
