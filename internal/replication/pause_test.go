package replication

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// After a pause the buffer that the kernel enlarged stays until the server has sent
// what it was offered, and then gets the size that fits.
func TestReceiveBufferAfterAPause(t *testing.T) {
	lockOff, lockOn := "lock false", "lock true"
	for _, test := range []struct {
		name    string
		behind  bool
		offered int
		arrives int // between two looks
		want    []string
	}{
		{"keeping up", false, 0, 10, []string{lockOff, lockOn, fmt.Sprint("limit ", largeBuffer.buffer), fmt.Sprint("resize ", largeBuffer.buffer)}},
		{"behind", true, 0, 10, []string{lockOff, lockOn, fmt.Sprint("limit ", smallBuffer.buffer), fmt.Sprint("resize ", smallBuffer.buffer)}},
		{"with more on the way", true, 15, 10, []string{lockOff, lockOn, fmt.Sprint("limit ", smallBuffer.buffer),
			fmt.Sprint("limit ", smallBuffer.buffer), fmt.Sprint("limit ", smallBuffer.buffer), fmt.Sprint("resize ", smallBuffer.buffer)}},
	} {
		for _, before := range []*socketUse{&smallBuffer, &largeBuffer} {
			socket := &fakeSocket{offered: test.offered}
			p := newPace(new(fakeWater), socket)
			p.socket, p.committed, socket.did = before, 1, nil
			if test.behind {
				p.lag = time.Second.Microseconds()
			}
			p.pause()
			p.pause()
			for range 4 {
				p.fit()
				p.read(test.arrives, 1<<20, time.Now())
			}
			// What follows is what happens without a pause, too.
			if got := socket.did[:min(len(socket.did), len(test.want))]; !slices.Equal(got, test.want) {
				t.Errorf("%s: did %q, want %q", test.name, socket.did, test.want)
			}
			if p.paused || p.enlarged || p.closing {
				t.Errorf("%s: still %+v", test.name, p)
			}
		}
	}
	far := newPace(unmarked{}, nil)
	far.pause() // there is nothing to enlarge
	if far.paused {
		t.Error("the socket of a far server is taken for one that was locked")
	}
}

// A wait that is no longer than a delay changes nothing at the socket.
func TestShortWaitIsNoPause(t *testing.T) {
	_, s := newServer(t, NewMemory(4*blockSize), never, 1)
	socket := new(fakeSocket)
	s.pace = newPace(new(fakeWater), socket)
	socket.did = nil
	ready := make(chan struct{}, 1)
	ready <- struct{}{}
	if ended, err := s.wait(t.Context(), ready); !ended || err != nil || socket.did != nil {
		t.Errorf("ended %v, %v, did %q", ended, err, socket.did)
	}
	if ended, err := s.wait(t.Context(), ready); ended || err != nil || !slices.Equal(socket.did, []string{"lock false"}) {
		t.Errorf("ended %v, %v, did %q", ended, err, socket.did)
	}
}

// In the middle of streaming Serve tells the server what is confirmed at once, shows
// that it is alive, and leaves the rest to the next read.
func TestServeInMidStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, s := newServer(t, NewMemory(4*blockSize), 8*time.Second, 700)
		go srv.write(walData(1, []byte("before")))
		expectFrames(t, s, []string{"data before"})
		done, ended := make(chan struct{}), make(chan error, 1)
		serve := func(ctx context.Context) { ended <- s.Serve(ctx, done) }
		began := time.Now()
		go serve(t.Context())
		time.Sleep(silentAfter + time.Minute)
		synctest.Wait()
		if n := len(srv.statuses); n < 11 {
			t.Errorf("%d status updates in %s", n, time.Since(began))
		}
		if at := s.Alive(); time.Since(at) > 10*time.Second {
			t.Errorf("it was alive %s ago", time.Since(at))
		}
		for len(srv.statuses) > 0 {
			<-srv.statuses
		}
		before := time.Now()
		s.Confirm(confirmed(800))
		if st := srv.status(); st != (standbyStatus{800, false}) || time.Since(before) > 100*time.Millisecond {
			t.Errorf("after %s the server hears %+v", time.Since(before), st)
		}
		close(done)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		// A question that came meanwhile is answered, and nobody is blamed.
		go srv.write(keepalive(900, true))
		expectFrames(t, s, []string{"keepalive 900"})
		go srv.write(walData(1, []byte("after")))
		expectFrames(t, s, []string{"data after"})
		if st := srv.status(); st.reply {
			t.Errorf("the server is asked (%+v), although it has not been silent", st)
		}

		done = make(chan struct{})
		why := errors.New("enough")
		s.Interrupt(why)
		if err := s.Serve(t.Context(), done); err != why {
			t.Errorf("Serve after an interruption: %v", err)
		}
		s.ClearInterrupt()
		go serve(t.Context())
		synctest.Wait()
		s.Interrupt(why)
		if err := <-ended; err != why {
			t.Errorf("Serve was interrupted, and returns %v", err)
		}
		s.Resume(why)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		if err := s.Serve(ctx, done); err != why {
			t.Errorf("Serve after the end of its context: %v", err)
		}
		go srv.write(walData(1, []byte("still")))
		expectFrames(t, s, []string{"data still"})
		s.Close()
	})
}

// A reader that was away, or a process that was suspended, for longer than a server
// may be silent does not take that for silence.
func TestAbsenceIsNotSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, s := newServer(t, NewMemory(4*blockSize), 8*time.Second, 700)
		time.Sleep(2 * silentAfter) // nobody calls Next
		go func() {
			time.Sleep(probeAfter / 2)
			srv.write(walData(1, []byte("x")))
		}()
		expectFrames(t, s, []string{"data x"})
		for len(srv.statuses) > 0 {
			if st := srv.status(); st.reply {
				t.Errorf("the server is asked: %+v", st)
			}
		}
		s.Close()
	})
}

// sleeper is a connection whose first read ends much later than its deadline, as it
// does in a process that was suspended.
type sleeper struct {
	net.Conn
	t     time.Duration
	slept bool
}

func (c *sleeper) Read(b []byte) (int, error) {
	if !c.slept {
		c.slept = true
		time.Sleep(c.t)
		return 0, os.ErrDeadlineExceeded
	}
	return c.Conn.Read(b)
}

func TestSuspensionIsNotSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, conn := pipe(t)
		s := newStream(&sleeper{Conn: conn, t: 2 * silentAfter}, paceOf(conn), NewMemory(4*blockSize), 8*time.Second, 700)
		defer s.Close()
		srv.listen()
		go func() {
			time.Sleep(2*silentAfter + time.Second)
			srv.write(walData(1, []byte("x")))
		}()
		expectFrames(t, s, []string{"data x"})
	})
}
