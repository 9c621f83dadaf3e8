package replication

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/sys/unix"
)

// vanish makes the kernel drop all that arrives at a socket from now on, before it
// acknowledges it: to the other side it is a host that is gone.
func vanish(t *testing.T, conn net.Conn) {
	t.Helper()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	dropAll := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	if controlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &dropAll})
	}); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
}

// A server whose process is known to be at work may be silent for as long as it likes,
// but its host has to acknowledge our status updates: a host that has vanished is noticed
// in bounded time, although somebody says, of whatever is at its address, that the
// process is at work.
func TestVanishedServerAtWork(t *testing.T) {
	t.Parallel()
	for _, gone := range []bool{true, false} {
		ours, theirs, _ := connected(t)
		s := newStream(ours, paceOf(ours), NewMemory(4*blockSize), 100*time.Millisecond, 700)
		s.probeAfter, s.silentAfter = 500*time.Millisecond, 2*time.Second // a busy machine runs us late
		s.sender.look = func(context.Context) (string, error) { return "its process (pid 7) is running", nil }
		t.Cleanup(s.Close)
		limitUnacknowledged(ours, time.Second)
		if gone {
			vanish(t, theirs)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := s.Next()
			ended <- err
		}()
		select {
		case err := <-ended:
			if !gone || !errors.Is(err, syscall.ETIMEDOUT) {
				t.Errorf("vanished %t: %v", gone, err)
			}
		case <-time.After(map[bool]time.Duration{true: 30 * time.Second, false: 6 * time.Second}[gone]):
			if gone {
				t.Error("a host that has vanished is not noticed")
			} else if s.Busy() == "" {
				t.Error("the server is not known to be at work")
			}
		}
	}
}

// A stream that has begun has the limit: as long as a silent server gets, and no less
// than a write may take.
func TestStartLimitsTheUnacknowledged(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{0: silentAfter, 20 * time.Second: 20 * time.Second, 3 * time.Second: writeTimeout} {
		address := stub(t, nil, func(conn net.Conn, b *pgproto3.Backend, _ map[string]string) {
			welcome(b)
			if m, err := b.Receive(); err != nil || !strings.HasPrefix(m.(*pgproto3.Query).String, "START_REPLICATION") {
				t.Errorf("the server was asked %v, %v", m, err)
				return
			}
			b.Send(&pgproto3.CopyBothResponse{})
			_ = b.Flush()
			silent(conn, b, nil)
		})
		cfg, err := parseDSN(dsnOf(address))
		if err != nil {
			t.Fatal(err)
		}
		pg, err := pgconn.ConnectConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		c := &Conn{pg: pg, o: Options{Slot: "s", Publication: "p"}, timeout: timeout}
		s, err := c.Start(t.Context(), 1, 1, NewMemory(4*blockSize))
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		if err := rawSocket(s.conn).Control(func(fd uintptr) {
			got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		}); err != nil || time.Duration(got)*time.Millisecond != want {
			t.Errorf("wal_sender_timeout %s: what stays unacknowledged for %d ms ends the connection, want %s (%v)", timeout, got, want, err)
		}
		s.Close()
	}
}
