package rawconn

import (
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSinceBoot(t *testing.T) {
	before := time.Now()
	first := SinceBoot()
	time.Sleep(20 * time.Millisecond)
	passed := SinceBoot() - first
	if took := time.Since(before); passed < 20*time.Millisecond || passed > took {
		t.Errorf("%s passed in %s", passed, took)
	}
}

// control calls f with the descriptor of a socket.
func control(t *testing.T, c net.Conn, f func(fd uintptr)) {
	t.Helper()
	socket, err := c.(syscall.Conn).SyscallConn()
	if err == nil {
		err = socket.Control(f)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A socket that is to hold four bytes is not ready with three.
func TestSetLowWater(t *testing.T) {
	ours, theirs := pair(t, "tcp", plain)
	send := func(text string, held int, ready bool) {
		t.Helper()
		if _, err := io.WriteString(theirs, text); err != nil {
			t.Fatal(err)
		}
		control(t, ours, func(fd uintptr) {
			for deadline := time.Now().Add(10 * time.Second); Held(fd) < held; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("the socket holds %d bytes, want %d", Held(fd), held)
				}
			}
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			if err != nil || ready != (n == 1) {
				t.Errorf("with %d bytes: ready %d, %v", held, n, err)
			}
		})
	}
	control(t, ours, func(fd uintptr) { SetLowWater(fd, 4) })
	send("abc", 3, false)
	send("d", 4, true)
}

// Calls that are made once a message let the runtime's monitoring thread sleep on. The
// same call through the scheduler wakes it, which is what the numbers are compared with.
func TestCallsLetTheMonitorSleep(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	ours, _ := pair(t, "tcp", plain)
	var fd uintptr
	control(t, ours, func(f uintptr) { fd = f })
	low := 0
	switches := func(call func()) float64 {
		tick := ticker(t, time.Millisecond)
		const ticks = 300
		before := usage(t)
		for range ticks {
			tick()
			call()
		}
		return float64(usage(t).Nvcsw-before.Nvcsw) / ticks
	}
	var now unix.Timespec
	without, scheduled := switches(func() {}), switches(func() { _ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) })
	if scheduled < without+0.5 {
		t.Fatalf("%.1f switches between threads without a call, and %.1f with one through the scheduler: nothing can be told by them", without, scheduled)
	}
	for name, call := range map[string]func(){
		"Held":        func() { Held(fd) },
		"SetLowWater": func() { low = low%100 + 1; SetLowWater(fd, low) },
		"SinceBoot":   func() { SinceBoot() },
	} {
		if n := switches(call); n > (without+scheduled)/2 {
			t.Errorf("%s: %.1f switches between threads a call, without one %.1f, with one through the scheduler %.1f", name, n, without, scheduled)
		}
	}
}
