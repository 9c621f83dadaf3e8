package distance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Line is the network and what lies behind it. Methods may be called from any
// goroutine.
type Line struct {
	near, far *os.File     // the devices
	oneWay    atomic.Int64 // nanoseconds
	lost      atomic.Int64 // packets that a device refused

	// inside takes work to the one thread that is in the namespace. Children that
	// are started there stay there, and may ask to be ended with the thread.
	inside chan func()
}

// Open makes the network, without a delay yet. The caller closes it.
func Open() (_ *Line, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("open a line: network namespaces and devices need root")
	}
	l := &Line{inside: make(chan func())}
	entered := make(chan error)
	go l.live(entered)
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("open a line: %w", err)
	}
	defer func() {
		if err != nil {
			l.Close()
			err = fmt.Errorf("open a line: %w", err)
		}
	}()
	if l.near, err = device("outboxd-near", Near); err != nil {
		return nil, err
	}
	l.do(func() {
		if l.far, err = device("outboxd-far", Far); err == nil {
			err = up("lo")
		}
	})
	if err != nil {
		return nil, err
	}
	go l.carry(l.near, l.far)
	go l.carry(l.far, l.near)
	return l, nil
}

// live enters a new namespace and works there until Close. Its thread ends with it:
// the namespace is nothing for others.
func (l *Line) live(entered chan<- error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		entered <- fmt.Errorf("make a network namespace: %w", err)
		return
	}
	entered <- nil
	for work := range l.inside {
		work()
	}
}

// do runs f in the namespace, on its thread, and waits for it.
func (l *Line) do(f func()) {
	done := make(chan struct{})
	l.inside <- func() {
		defer close(done)
		f()
	}
	<-done
}

// SetRoundTrip changes the delay of packets to come. It must not be done while any
// are under way: they could be overtaken.
func (l *Line) SetRoundTrip(d time.Duration) { l.oneWay.Store(int64(d / 2)) }

// Start starts a program inside.
func (l *Line) Start(cmd *exec.Cmd) (err error) {
	l.do(func() { err = cmd.Start() })
	return err
}

// Listen listens inside. What is accepted can be used by this process as any other
// connection.
func (l *Line) Listen(address string) (listener net.Listener, err error) {
	l.do(func() { listener, err = net.Listen("tcp", address) })
	return listener, err
}

// Err tells whether packets were lost, which is not what is to be measured here.
func (l *Line) Err() error {
	if n := l.lost.Load(); n > 0 {
		return fmt.Errorf("the line lost %d packets", n)
	}
	return nil
}

// Close removes all. What was started inside must have ended.
func (l *Line) Close() {
	if l.near != nil {
		l.near.Close()
	}
	if l.far != nil {
		l.far.Close()
	}
	close(l.inside)
}
