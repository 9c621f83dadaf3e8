package distance

import (
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// carry takes packets from one device to the other, in order, each when its time
// has come, until a device is closed.
func (l *Line) carry(from, to *os.File) {
	way := newWay()
	go l.deliver(way, to)
	packet := make([]byte, largest)
	for {
		n, err := from.Read(packet)
		if err != nil {
			way.close()
			return
		}
		way.put(packet[:n], time.Now().Add(time.Duration(l.oneWay.Load())))
	}
}

// deliver sleeps on a thread of its own: the runtime's timers are exact to a
// millisecond only.
func (l *Line) deliver(way *way, to *os.File) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		packets, ok := way.take()
		if !ok {
			return
		}
		for _, p := range packets {
			for wait := time.Until(p.due); wait > 0; wait = time.Until(p.due) {
				pause := unix.NsecToTimespec(int64(wait))
				_ = unix.Nanosleep(&pause, nil) // interrupted, it is called again
			}
			if _, err := to.Write(p.data); err != nil {
				l.lost.Add(1)
			}
		}
	}
}

// way are the packets on their way in one direction.
type way struct {
	mu      sync.Mutex
	some    sync.Cond
	packets []packet
	taken   []packet // by deliver, until it comes again
	spare   [2][][]byte
	closed  bool
}

type packet struct {
	due  time.Time
	data []byte
}

func newWay() *way {
	w := &way{}
	w.some.L = &w.mu
	return w
}

// put copies a packet. There is no limit: TCP's windows are one.
func (w *way) put(data []byte, due time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.packets = append(w.packets, packet{due, append(w.buffer(len(data)), data...)})
	if len(w.packets) == 1 {
		w.some.Signal()
	}
}

// take returns all packets there are, oldest first, and waits for one. They are
// valid until the next call.
func (w *way) take() ([]packet, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.taken {
		kind := sizeKind(cap(p.data))
		w.spare[kind] = append(w.spare[kind], p.data[:0])
	}
	w.taken = w.taken[:0]
	for len(w.packets) == 0 && !w.closed {
		w.some.Wait()
	}
	w.packets, w.taken = w.taken, w.packets
	return w.taken, !w.closed
}

func (w *way) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.some.Signal()
}

// sizes of buffers: most packets are single segments or as large as can be.
var sizes = [2]int{2 << 10, largest}

func sizeKind(n int) int {
	if n <= sizes[0] {
		return 0
	}
	return 1
}

// buffer returns an empty buffer with room for n bytes.
func (w *way) buffer(n int) []byte {
	kind := sizeKind(n)
	if last := len(w.spare[kind]) - 1; last >= 0 {
		b := w.spare[kind][last]
		w.spare[kind] = w.spare[kind][:last]
		return b
	}
	return make([]byte, 0, sizes[kind])
}
