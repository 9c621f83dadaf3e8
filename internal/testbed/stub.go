package testbed

import (
	"net"
	"sync"
)

// Stub is a TCP server on the loopback of which a test serves the connections: one that
// lies, is silent, or says more than any server does.
type Stub struct {
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // nil: closed
}

// NewStub starts a server that calls serve for each connection, each in a goroutine, and
// closes the connection when serve returns.
func NewStub(serve func(net.Conn)) (*Stub, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Stub{listener: l, conns: make(map[net.Conn]bool)}
	s.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if !s.add(conn) {
				continue
			}
			s.running.Go(func() {
				defer s.remove(conn)
				serve(conn)
			})
		}
	})
	return s, nil
}

// add closes a connection that came too late.
func (s *Stub) add(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		conn.Close()
		return false
	}
	s.conns[conn] = true
	return true
}

func (s *Stub) remove(conn net.Conn) {
	conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

// Addr returns the address that it listens on.
func (s *Stub) Addr() string { return s.listener.Addr().String() }

// Close closes the listener and all connections, and returns when all calls of serve
// have.
func (s *Stub) Close() {
	s.listener.Close()
	s.mu.Lock()
	for conn := range s.conns {
		conn.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.running.Wait()
}
