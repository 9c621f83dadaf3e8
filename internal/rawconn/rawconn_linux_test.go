package rawconn

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

// Ways to connect: raw, and as the net package does.
var raw, plain = Dial(new(net.Dialer)), new(net.Dialer).DialContext

// pair returns the two ends of a connection, ours dialed in one of these ways.
func pair(t testing.TB, network string, dial func(ctx context.Context, network, address string) (net.Conn, error)) (ours, theirs net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "socket")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if ours, err = dial(context.Background(), network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	if theirs, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

// It does what is asked of every net.Conn: deadlines, concurrent calls, closing while
// a call waits.
func TestConn(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				c1, c2 = pair(t, network, raw)
				return c1, wrap(c2), func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

// A write that the socket takes in parts is whole.
func TestLargeWrite(t *testing.T) {
	ours, theirs := pair(t, "tcp", raw)
	sent := make([]byte, 32<<20)
	if _, err := rand.Read(sent); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		n, err := ours.Write(sent)
		if err == nil && n != len(sent) {
			err = fmt.Errorf("wrote %d bytes of %d", n, len(sent))
		}
		wrote <- errors.Join(err, ours.Close())
	}()
	got, err := io.ReadAll(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("what arrived is not what was sent")
	}
}

// Errors are those of the net package: callers tell them apart.
func TestErrors(t *testing.T) {
	b := make([]byte, 1<<20)
	reset := func(theirs *net.TCPConn) {
		theirs.SetLinger(0)
		theirs.Close()
	}
	for _, test := range []struct {
		name string
		do   func(ours net.Conn, theirs *net.TCPConn) error
		is   error
	}{
		{"a deadline of reads", func(ours net.Conn, _ *net.TCPConn) error {
			ours.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := ours.Read(b)
			return err
		}, os.ErrDeadlineExceeded},
		{"a deadline of writes", func(ours net.Conn, _ *net.TCPConn) (err error) {
			ours.SetWriteDeadline(time.Now().Add(time.Millisecond))
			for err == nil {
				_, err = ours.Write(b)
			}
			return err
		}, os.ErrDeadlineExceeded},
		{"a closed connection", func(ours net.Conn, _ *net.TCPConn) error {
			ours.Close()
			_, err := ours.Read(b)
			return err
		}, net.ErrClosed},
		{"a connection that the other side has reset", func(ours net.Conn, theirs *net.TCPConn) error {
			reset(theirs)
			_, err := ours.Read(b)
			return err
		}, syscall.ECONNRESET},
		{"the end after it", func(ours net.Conn, theirs *net.TCPConn) error {
			reset(theirs)
			ours.Read(b)
			_, err := ours.Read(b)
			return err
		}, io.EOF},
		{"a write after it", func(ours net.Conn, theirs *net.TCPConn) error {
			reset(theirs)
			ours.Read(b)
			_, err := ours.Write(b)
			return err
		}, syscall.EPIPE},
	} {
		ours, theirs := pair(t, "tcp", raw)
		got := test.do(ours, theirs.(*net.TCPConn))
		ours, theirs = pair(t, "tcp", plain)
		want := test.do(ours, theirs.(*net.TCPConn))
		if !errors.Is(got, test.is) || !errors.Is(want, test.is) {
			t.Errorf("%s: %v and, in the net package, %v; want %v", test.name, got, want, test.is)
		}
		if g, w := shape(got), shape(want); g != w {
			t.Errorf("%s: the error is %s, in the net package %s", test.name, g, w)
		}
	}
	ours, theirs := pair(t, "tcp", raw)
	theirs.Close()
	if n, err := ours.Read(b); n != 0 || err != io.EOF {
		t.Errorf("the end is %d, %v", n, err)
	}
	if n, err := ours.Read(nil); n != 0 || err != nil {
		t.Errorf("a read of nothing is %d, %v", n, err)
	}
}

// shape is an error without what differs from connection to connection.
func shape(err error) string {
	var op *net.OpError
	if !errors.As(err, &op) {
		return fmt.Sprintf("%T %v", err, err)
	}
	return fmt.Sprintf("%T %s %s %v %v %T %v", err, op.Op, op.Net, op.Source != nil, op.Addr != nil, op.Err, op.Err)
}

func TestNoAllocations(t *testing.T) {
	ours, theirs := pair(t, "tcp", raw)
	if _, ok := ours.(*conn); !ok {
		t.Fatalf("%T is not raw", ours)
	}
	b := make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := ours.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(theirs, b); err != nil {
			t.Fatal(err)
		}
		if _, err := theirs.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(ours, b); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%.1f allocations for a message there and back", n)
	}
}

// A pipe has no socket.
func TestWithoutSocket(t *testing.T) {
	left, right := net.Pipe()
	defer left.Close()
	defer right.Close()
	if wrap(left) != left {
		t.Error("a pipe is wrapped")
	}
}

// The runtime's monitoring thread sleeps on: with the net package it is most of the
// switches between threads.
func TestMonitorSleeps(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	_, ours := exchanges(t, wrap, 300)
	_, theirs := exchanges(t, unwrapped, 300)
	if ours > theirs*2/3 {
		t.Errorf("%.1f switches for a message there and back, with the net package %.1f", ours, theirs)
	}
}

// BenchmarkExchange is a small message there and back, a millisecond apart, on one
// processor.
func BenchmarkExchange(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for name, wrap := range map[string]func(net.Conn) net.Conn{"raw": wrap, "net": unwrapped} {
		b.Run(name, func(b *testing.B) {
			cpu, switches := exchanges(b, wrap, b.N)
			b.ReportMetric(float64(cpu.Nanoseconds()), "cpu-ns/op")
			b.ReportMetric(switches, "switches/op")
		})
	}
}

func unwrapped(c net.Conn) net.Conn { return c }

// exchanges returns the CPU time and the switches between threads of one exchange.
func exchanges(t testing.TB, wrap func(net.Conn) net.Conn, n int) (cpu time.Duration, switches float64) {
	t.Helper()
	left, right := pair(t, "tcp", plain)
	left, right = wrap(left), wrap(right)
	go func() {
		b := make([]byte, 100)
		for {
			n, err := right.Read(b)
			if err != nil {
				return
			}
			if _, err := right.Write(b[:n]); err != nil {
				return
			}
		}
	}()
	tick := ticker(t, time.Millisecond)
	m := make([]byte, 100)
	before := usage(t)
	for range n {
		tick()
		if _, err := left.Write(m); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(left, m); err != nil {
			t.Fatal(err)
		}
	}
	after := usage(t)
	used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	return time.Duration(used) / time.Duration(n), float64(after.Nvcsw-before.Nvcsw) / float64(n)
}

// ticker returns what waits for the next tick of the kernel's: the runtime's own timers
// would wake its monitoring thread.
func ticker(t testing.TB, every time.Duration) func() {
	t.Helper()
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	timer := os.NewFile(uintptr(fd), "timer")
	t.Cleanup(func() { timer.Close() })
	interval := unix.NsecToTimespec(every.Nanoseconds())
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: interval, Value: interval}, nil); err != nil {
		t.Fatal(err)
	}
	raw, err := timer.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	h := half{name: "read", call: syscall.SYS_READ, wait: raw.Read}
	h.try = h.attempt
	expirations := make([]byte, 8)
	return func() {
		if _, err := h.transfer(expirations); err != nil {
			t.Fatal(err)
		}
	}
}

func usage(t testing.TB) (r syscall.Rusage) {
	t.Helper()
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return r
}
