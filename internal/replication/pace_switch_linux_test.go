package replication

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Reads are delayed in heavy traffic, and counted, unless the options forbid it: then
// none is, and the receive buffer stays the kernel's.
func TestReadDelaysCanBeTurnedOff(t *testing.T) {
	for _, off := range []bool{false, true} {
		delays := new(atomic.Int64)
		ours, theirs, socket := connected(t)
		buffer := func() (bytes int) {
			_ = socket.raw.Control(func(fd uintptr) { bytes, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF) })
			return bytes
		}
		before := buffer()
		o := Options{NeverDelayReads: off, ReadDelays: delays}
		s := newStream(ours, o.pace(ours), NewMemory(64<<20), never, 1)
		t.Cleanup(s.Close)
		switch after := buffer(); {
		case off && after != before:
			t.Errorf("off: the receive buffer was %d bytes and is %d", before, after)
		case !off && socket.lockable && after != 2*smallBuffer.buffer:
			t.Errorf("on: the receive buffer is %d bytes, want %d", after, 2*smallBuffer.buffer)
		}
		// Messages that the server sends one by one, as fast as it can.
		const messages = 100_000
		go func() {
			for n := range messages {
				if _, err := theirs.Write(sentAt(1, n+1, append([]byte{'I'}, make([]byte, 300)...))); err != nil {
					return
				}
			}
		}()
		for deadline, n := time.Now().Add(time.Minute), 0; n < messages && (off || delays.Load() == 0); n++ {
			if _, err := s.Next(); err != nil {
				t.Fatal(err)
			}
			if time.Now().After(deadline) {
				t.Fatal("the messages do not come")
			}
		}
		if n := delays.Load(); off && n != 0 || !off && n == 0 {
			t.Errorf("off %t: %d reads were delayed", off, n)
		}
		theirs.Close()
	}
}
