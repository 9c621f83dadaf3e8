package testbed

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// echo answers every byte with itself, and notes what it received.
type echo struct {
	addr     string
	received chan byte
}

func startEcho(t *testing.T) *echo {
	t.Helper()
	e := &echo{received: make(chan byte, 1<<20)}
	server, err := NewStub(func(conn net.Conn) {
		buf := make([]byte, 1024)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			for _, b := range buf[:n] {
				e.received <- b
			}
			if _, err := conn.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	e.addr = server.Addr()
	return e
}

func startProxy(t *testing.T, target string) *Proxy {
	t.Helper()
	p, err := NewProxy(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func send(t *testing.T, conn net.Conn, s string) {
	t.Helper()
	if _, err := conn.Write([]byte(s)); err != nil {
		t.Fatalf("send: %v", err)
	}
}

func expect(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("received %q (%v), want %q", got[:n], err, want)
	}
}

func (e *echo) expect(t *testing.T, want string) {
	t.Helper()
	for i := range want {
		select {
		case b := <-e.received:
			if b != want[i] {
				t.Fatalf("the server received %q at %d, want %q", b, i, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("the server received %q, want %q", want[:i], want)
		}
	}
}

// expectEnd demands that the connection has ended, and that no byte came before.
func expectEnd(t *testing.T, conn net.Conn) {
	t.Helper()
	rest, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the connection is still open")
	}
	if len(rest) > 0 {
		t.Fatalf("received %q before the end", rest)
	}
}

// expectSilence demands that nothing comes while the connection stays open.
func expectSilence(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := conn.Read(make([]byte, 1))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("received %d bytes and %v, want silence", n, err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
}

func TestProxyForwards(t *testing.T) {
	e := startEcho(t)
	p := startProxy(t, e.addr)
	conn := dial(t, p)
	send(t, conn, "hello")
	expect(t, conn, "hello")
	if n := p.Connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}

	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	go func() { _, _ = conn.Write(big) }()
	expect(t, conn, string(big))
}

func TestProxyPassesOnHalfClose(t *testing.T) {
	e := startEcho(t)
	conn := dial(t, startProxy(t, e.addr))
	send(t, conn, "last words")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expect(t, conn, "last words")
	expectEnd(t, conn)
}

func TestProxyCut(t *testing.T) {
	e := startEcho(t)
	p := startProxy(t, e.addr)
	a, b := dial(t, p), dial(t, p)
	for _, conn := range []net.Conn{a, b} {
		send(t, conn, "x")
		expect(t, conn, "x")
	}
	p.Cut()
	expectEnd(t, a)
	expectEnd(t, b)

	again := dial(t, p)
	send(t, again, "y")
	expect(t, again, "y")
}

func TestProxyRefuse(t *testing.T) {
	e := startEcho(t)
	p := startProxy(t, e.addr)
	old := dial(t, p)
	send(t, old, "x")
	expect(t, old, "x")

	p.Refuse(true)
	expectEnd(t, dial(t, p))
	send(t, old, "y")
	expect(t, old, "y")

	p.Refuse(false)
	again := dial(t, p)
	send(t, again, "z")
	expect(t, again, "z")
}

func TestProxySetTarget(t *testing.T) {
	p := startProxy(t, "")
	expectEnd(t, dial(t, p))

	first, second := startEcho(t), startEcho(t)
	p.SetTarget(first.addr)
	a := dial(t, p)
	send(t, a, "1")
	first.expect(t, "1")
	p.SetTarget(second.addr)
	b := dial(t, p)
	send(t, b, "2")
	second.expect(t, "2")
	send(t, a, "3")
	first.expect(t, "3")
}

func TestProxyStall(t *testing.T) {
	t.Run("answers", func(t *testing.T) {
		e := startEcho(t)
		p := startProxy(t, e.addr)
		conn := dial(t, p)
		p.Stall(ServerToClient, true)
		send(t, conn, "held")
		e.expect(t, "held")
		expectSilence(t, conn)
		p.Stall(ServerToClient, false)
		expect(t, conn, "held")
	})
	t.Run("requests", func(t *testing.T) {
		e := startEcho(t)
		p := startProxy(t, e.addr)
		conn := dial(t, p)
		p.Stall(ClientToServer, true)
		send(t, conn, "held")
		expectSilence(t, conn)
		if len(e.received) > 0 {
			t.Fatal("the server received what was held")
		}
		p.Stall(Both, false)
		expect(t, conn, "held")
	})
	t.Run("cut while held", func(t *testing.T) {
		e := startEcho(t)
		p := startProxy(t, e.addr)
		conn := dial(t, p)
		p.Stall(Both, true)
		send(t, conn, "lost")
		expectSilence(t, conn)
		p.Cut()
		expectEnd(t, conn)
		p.Stall(Both, false)
		again := dial(t, p)
		send(t, again, "x")
		expect(t, again, "x")
		e.expect(t, "x")
	})
}

func TestProxyDropAndCut(t *testing.T) {
	e := startEcho(t)
	p := startProxy(t, e.addr)
	conn := dial(t, p)
	send(t, conn, "a")
	expect(t, conn, "a")
	p.DropAndCut(ServerToClient)
	send(t, conn, "b")
	e.expect(t, "ab")
	expectSilence(t, conn)
	p.Cut()
	expectEnd(t, conn)

	again := dial(t, p)
	send(t, again, "c")
	expect(t, again, "c")
}

func TestProxyCutAfter(t *testing.T) {
	e := startEcho(t)
	p := startProxy(t, e.addr)
	conn := dial(t, p)
	p.CutAfter(ServerToClient, 3)
	send(t, conn, "abcdef")
	e.expect(t, "abcdef")
	expect(t, conn, "abc")
	expectEnd(t, conn)

	again := dial(t, p) // once is once
	send(t, again, "abcdef")
	expect(t, again, "abcdef")
}

func TestProxyClose(t *testing.T) {
	e := startEcho(t)
	p := startProxy(t, e.addr)
	conn := dial(t, p)
	send(t, conn, "x")
	expect(t, conn, "x")
	p.Stall(Both, true)
	p.Close()
	p.Close()
	expectEnd(t, conn)
	if _, err := net.Dial("tcp", p.Addr()); err == nil {
		t.Error("a closed proxy accepts connections")
	}
}
