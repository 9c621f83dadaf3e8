package systemd

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// manager is a service manager's end of the socket.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
	env  map[string]string
}

func newManager(t *testing.T, watchdog time.Duration) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &manager{t: t, env: map[string]string{"NOTIFY_SOCKET": filepath.Join(dir, "s")}}
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.env["NOTIFY_SOCKET"], Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.conn.Close() })
	if watchdog > 0 {
		m.env["WATCHDOG_USEC"], m.env["WATCHDOG_PID"] = strconv.FormatInt(watchdog.Microseconds(), 10), strconv.Itoa(os.Getpid())
	}
	return m
}

func (m *manager) getenv(name string) string { return m.env[name] }

// next returns the next message, "" for none within a while.
func (m *manager) next(within time.Duration) string {
	m.t.Helper()
	_ = m.conn.SetReadDeadline(time.Now().Add(within))
	b := make([]byte, 4096)
	n, err := m.conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b[:n])
}

// until waits for a message.
func (m *manager) until(want string) {
	m.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if strings.Contains("\n"+m.next(time.Second)+"\n", "\n"+want+"\n") {
			return
		}
	}
	m.t.Fatalf("never: %s", want)
}

func TestNotify(t *testing.T) {
	m := newManager(t, 100*time.Millisecond)
	n, err := New(m.getenv)
	if err != nil || n == nil {
		t.Fatal(err)
	}
	stopping, stop := context.WithCancel(t.Context())
	ended, end := context.WithCancel(t.Context())
	var stuck atomic.Bool
	var status atomic.Value
	status.Store("waiting: no broker\nREADY=0")
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Run(stopping, ended, func() bool { return !stuck.Load() }, func() string { return status.Load().(string) })
	}()
	if got, want := m.next(10*time.Second), "READY=1\nSTATUS=waiting: no broker READY=0\nWATCHDOG=1"; got != want {
		t.Errorf("first %q, want %q", got, want)
	}
	// The same status is not said again.
	for range 5 {
		if got := m.next(10 * time.Second); got != "WATCHDOG=1" {
			t.Errorf("then %q", got)
		}
	}
	status.Store("streaming")
	m.until("STATUS=streaming")
	// A process that makes no progress gives no sign of life.
	stuck.Store(true)
	for m.next(300*time.Millisecond) != "" { // what was on its way
	}
	if got := m.next(time.Second); got != "" {
		t.Errorf("while it is stuck: %q", got)
	}
	stuck.Store(false)
	m.until("WATCHDOG=1")
	// It gives signs of life until its end, also while it stops.
	stop()
	m.until("STOPPING=1")
	m.until("WATCHDOG=1")
	end()
	<-done
}

// A stop that is over at once is said all the same.
func TestShortStop(t *testing.T) {
	for range 20 {
		m := newManager(t, 0)
		n, err := New(m.getenv)
		if err != nil {
			t.Fatal(err)
		}
		over, end := context.WithCancel(t.Context())
		end()
		n.Run(over, over, func() bool { return true }, func() string { return "" })
		m.until("STOPPING=1")
	}
}

func TestNobodyAsks(t *testing.T) {
	if n, err := New(func(string) string { return "" }); n != nil || err != nil {
		t.Errorf("%v, %v", n, err)
	}
	if _, err := New(func(name string) string { return map[string]string{"NOTIFY_SOCKET": "/nowhere/s"}[name] }); err == nil {
		t.Error("a socket that is not there is taken")
	}
	m := newManager(t, 0)
	m.env["WATCHDOG_USEC"] = "soon"
	if _, err := New(m.getenv); err == nil || !strings.Contains(err.Error(), "WATCHDOG_USEC") {
		t.Errorf("%v", err)
	}
	// The watchdog of another process is not ours.
	m.env["WATCHDOG_USEC"], m.env["WATCHDOG_PID"] = "1000000", "1"
	if n, err := New(m.getenv); err != nil || n.watchdog != 0 {
		t.Errorf("%+v, %v", n, err)
	}
	// The abstract namespace has no files.
	name := "@outboxd-test-" + strconv.Itoa(os.Getpid())
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if n, err := New(func(e string) string { return map[string]string{"NOTIFY_SOCKET": name}[e] }); err != nil || n == nil {
		t.Errorf("%v", err)
	}
}
