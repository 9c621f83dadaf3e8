package status

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// pipes is a listener without sockets, for a test whose clock is not the real one.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	fail   func() error // of each Accept
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	if p.fail != nil {
		if err := p.fail(); err != nil {
			return nil, err
		}
	}
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 9188} }

// dial returns a client's end, nil when no connection is accepted within a second.
func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client
	case <-time.After(time.Second):
		return nil
	}
}

// startPipes serves until the test ends.
func startPipes(t *testing.T, p *pipes, o HTTP) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- New(time.Minute).ServeWith(ctx, p, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve ended with %v", err)
		}
	})
}

// closedAfter returns when the server ends a connection from which the client reads
// nothing but what is left.
func closedAfter(conn net.Conn) time.Duration {
	start := time.Now()
	_, _ = io.Copy(io.Discard, conn)
	return time.Since(start)
}

const ask = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

// No client holds a connection by doing nothing.
func TestIdleClientsAreClosed(t *testing.T) {
	for name, c := range map[string]struct {
		sends string
		limit time.Duration
	}{
		"nothing sent":          {"", headerTimeout},
		"half a header":         {"GET /healthz HTTP/1.1\r\nHo", headerTimeout},
		"a body that is owed":   {"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", readTimeout + idleTimeout},
		"kept alive after work": {ask, idleTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPipes()
				startPipes(t, p, HTTP{})
				conn := p.dial()
				go func() { _, _ = io.WriteString(conn, c.sends) }()
				if took := closedAfter(conn); took > c.limit+time.Second {
					t.Errorf("closed after %s, limit %s", took, c.limit)
				}
				conn.Close()
			})
		})
	}
}

// A client that asks and does not read is given up.
func TestSlowReaderIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		startPipes(t, p, HTTP{})
		conn := p.dial()
		if _, err := io.WriteString(conn, strings.Replace(ask, "healthz", "metrics", 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(writeTimeout + time.Second)
		synctest.Wait()
		if n, _ := io.Copy(io.Discard, conn); n > 0 {
			t.Errorf("%d bytes were still written", n)
		}
	})
}

// More clients than the limit wait; they take no more descriptors than it. When one
// goes, the next is served.
func TestConnectionsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		startPipes(t, p, HTTP{})
		var held []net.Conn
		for range maxConnections {
			conn := p.dial()
			if conn == nil {
				t.Fatalf("only %d connections are accepted", len(held))
			}
			held = append(held, conn)
		}
		if p.dial() != nil {
			t.Fatalf("more than %d connections are accepted", maxConnections)
		}
		held[0].Close()
		conn := p.dial()
		if conn == nil {
			t.Fatal("a connection that ended leaves no room")
		}
		go func() { _, _ = io.WriteString(conn, ask) }()
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("%v, %v", answer, err)
		}
		conn.Close()
		for _, conn := range held {
			conn.Close()
		}
	})
}

func TestLargeHeaderIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		startPipes(t, p, HTTP{})
		conn := p.dial()
		go func() { _, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nA: "+strings.Repeat("a", 1<<20)) }()
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%v, %v", answer, err)
		}
		conn.Close()
		time.Sleep(time.Second) // for which the server lingers
	})
}

// Without file descriptors the page waits and comes back, and the log has a JSON line
// a minute about it.
func TestNoFileDescriptors(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		synctest.Test(t, func(t *testing.T) {
			p := newPipes()
			begun := time.Now()
			p.fail = func() error {
				if time.Since(begun) < 130*time.Second {
					return &net.OpError{Op: "accept", Net: "tcp", Err: errno}
				}
				return nil
			}
			var out bytes.Buffer
			startPipes(t, p, HTTP{Log: zerolog.New(&out)})
			time.Sleep(140 * time.Second)
			conn := p.dial()
			if conn == nil {
				t.Fatal("the page does not come back")
			}
			go func() { _, _ = io.WriteString(conn, ask) }()
			if answer, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || answer.StatusCode != http.StatusOK {
				t.Errorf("%v, %v", answer, err)
			}
			conn.Close()
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if len(lines) < 2 || len(lines) > 4 {
				t.Errorf("%d lines in 130 s:\n%s", len(lines), out.String())
			}
			for _, line := range lines {
				if !strings.HasPrefix(line, `{"level":"warn","error":"http: Accept error: `) {
					t.Errorf("not a line of the log: %s", line)
				}
			}
		})
	}
}

// serveOn serves on a real socket.
func serveOn(t *testing.T, address string, o HTTP) (at string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- New(time.Minute).ServeWith(ctx, l, o) }()
	t.Cleanup(func() { cancel(); <-ended })
	return l.Addr().String()
}

func request(t *testing.T, client *http.Client, url, host, authorization string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	return answer.StatusCode
}

// A name that a browser was lured to is not answered on loopback; on an address that
// others reach every name is.
func TestHost(t *testing.T) {
	const refused, ok = http.StatusMisdirectedRequest, http.StatusOK
	own := serveOn(t, "127.0.0.1:0", HTTP{})
	all := serveOn(t, "0.0.0.0:0", HTTP{})
	_, port, _ := net.SplitHostPort(all)
	token := serveOn(t, "127.0.0.1:0", HTTP{Token: func() (string, error) { return "secret", nil }})
	for _, c := range []struct {
		at, host, authorization string
		want                    int
	}{
		{own, "evil.example", "", refused},
		{own, "evil.example:9188", "", refused},
		{own, "127.0.0.1.evil.example", "", refused},
		{own, "10.0.0.1", "", refused},
		{own, "127.0.0.1:9188", "", ok},
		{own, "127.0.0.2", "", ok},
		{own, "localhost:1", "", ok},
		{own, "LocalHost.", "", ok},
		{own, "[::1]:9188", "", ok},
		{"127.0.0.1:" + port, "outboxd.kafka.svc.cluster.local:9188", "", ok},
		{"127.0.0.1:" + port, "10.1.2.3:9188", "", ok},
		{token, "metrics.example", "Bearer secret", ok},
		{token, "metrics.example", "", http.StatusUnauthorized},
	} {
		if got := request(t, http.DefaultClient, "http://"+c.at+"/status", c.host, c.authorization); got != c.want {
			t.Errorf("%s asked as %q: %d, want %d", c.at, c.host, got, c.want)
		}
	}
}

func TestToken(t *testing.T) {
	token, failure := "first-token", error(nil)
	at := "http://" + serveOn(t, "127.0.0.1:0", HTTP{Token: func() (string, error) { return token, failure }})
	code := func(path, authorization string) int {
		return request(t, http.DefaultClient, at+path, "localhost", authorization)
	}
	for _, path := range []string{"/status", "/metrics", "/", "/none"} {
		for authorization, want := range map[string]bool{
			"Bearer first-token": true, "bearer  first-token": true, "": false, "Bearer": false, "Bearer ": false, "Bearer first-toke": false,
			"Bearer first-token2": false, "Basic first-token": false, "first-token": false,
		} {
			if got := code(path, authorization); (got != http.StatusUnauthorized) != want {
				t.Errorf("%s with %q: %d", path, authorization, got)
			}
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := code(path, ""); got == http.StatusUnauthorized {
			t.Errorf("%s asks for the token", path)
		}
	}
	token = "second-token"
	if old, now := code("/status", "Bearer first-token"), code("/status", "Bearer second-token"); old != http.StatusUnauthorized || now != http.StatusOK {
		t.Errorf("after a rotation: the old token %d, the new one %d", old, now)
	}
	failure = errors.New("no file")
	if got := code("/status", "Bearer second-token"); got != http.StatusServiceUnavailable {
		t.Errorf("without the file: %d", got)
	}
	token, failure = "", nil
	if got := code("/status", ""); got != http.StatusOK {
		t.Errorf("without a token: %d", got)
	}
}

// With a certificate it is HTTPS only; what is not TLS does not disturb it.
func TestHTTPS(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	var out lockedBuffer
	at := serveOn(t, "127.0.0.1:0", HTTP{TLS: &tls.Config{Certificates: server.TLS.Certificates}, Log: zerolog.New(&out)})
	for range 5 {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, ask)
		if b, _ := io.ReadAll(conn); bytes.Contains(b, []byte("200 OK")) {
			t.Errorf("plain HTTP is answered: %s", b)
		}
		conn.Close()
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: server.Client().Transport.(*http.Transport).TLSClientConfig}}
	if got := request(t, client, "https://"+at+"/healthz", "localhost", ""); got != http.StatusOK {
		t.Errorf("%d", got)
	}
	if n := strings.Count(out.String(), "\n"); n > 1 {
		t.Errorf("%d lines in the log:\n%s", n, out.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The level of the log is changed only with the token, and only to one that there is.
func TestLogLevel(t *testing.T) {
	level := "info"
	set := func(to string) error {
		if to != "debug" {
			return errors.New("no such level")
		}
		level = to
		return nil
	}
	put := func(at, authorization, body string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+at+"/log-level", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	open := HTTP{Level: func() string { return level }, SetLevel: set}
	closed := open
	closed.Token = func() (string, error) { return "token", nil }
	emptied := open
	emptied.Token = func() (string, error) { return "", nil }
	for _, c := range []struct {
		o                   HTTP
		authorization, body string
		want                int
		level               string
	}{
		{open, "", "debug", http.StatusForbidden, "info"},
		{emptied, "Bearer ", "debug", http.StatusForbidden, "info"},
		{closed, "", "debug", http.StatusUnauthorized, "info"},
		{closed, "Bearer toke", "debug", http.StatusUnauthorized, "info"},
		{closed, "Bearer token", "loud", http.StatusBadRequest, "info"},
		{closed, "Bearer token", strings.Repeat("d", 1<<20), http.StatusBadRequest, "info"},
		{closed, "Bearer token", "debug\n", http.StatusOK, "debug"},
		{HTTP{}, "", "debug", http.StatusMethodNotAllowed, "debug"},
	} {
		if got := put(serveOn(t, "127.0.0.1:0", c.o), c.authorization, c.body); got != c.want && !(c.want == http.StatusMethodNotAllowed && got == http.StatusNotFound) || level != c.level {
			t.Errorf("%q with %q: %d, want %d; the level is %s", c.body[:min(len(c.body), 10)], c.authorization, got, c.want, level)
		}
	}
}
