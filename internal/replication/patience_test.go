package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A server that is silent is asked what it does over a second connection. It stays as
// long as its process is at work, and the statuses go out meanwhile, also while the
// question has no answer yet; it is given up when it cannot be at work, or when nobody
// answers, no later than without the question.
func TestSilentServerAtWork(t *testing.T) {
	var (
		atWork = func(context.Context) (string, error) { return "its process (pid 7) is running", nil }
		ended  = func(context.Context) (string, error) { return "", errors.New("its process (pid 7) has ended") }
		none   = func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", fmt.Errorf("no connection: %w", context.Cause(ctx))
		}
	)
	const works = 10 * time.Minute
	for _, test := range []struct {
		name string
		look func(asked int) func(context.Context) (string, error)
		// sends is when the server sends again; 0: never.
		sends time.Duration
		// gaveUp is when it is given up, and says what it says then.
		gaveUp time.Duration
		says   string
	}{
		{"at work, then sends", func(int) func(context.Context) (string, error) { return atWork }, works, 0, ""},
		{"has ended", func(int) func(context.Context) (string, error) { return ended }, 0, silentAfter, "nothing was received for 30s, not even an answer; its process (pid 7) has ended"},
		{"cannot be asked", func(int) func(context.Context) (string, error) { return none }, 0, silentAfter, "no connection"},
		{"nobody to ask", func(int) func(context.Context) (string, error) { return nil }, 0, silentAfter, "not even an answer; outboxd reconnects"},
		{"the answer was on its way", func(int) func(context.Context) (string, error) { return ended }, silentAfter - time.Second, 0, ""},
		{"at work for a while, then ended", func(asked int) func(context.Context) (string, error) {
			if asked < 4 {
				return atWork
			}
			return ended
		}, 0, 3*20*time.Second + silentAfter, "nothing was received for 1m30s"},
		{"at work for a while, then cut off", func(asked int) func(context.Context) (string, error) {
			if asked < 4 {
				return atWork
			}
			return none
		}, 0, 3*20*time.Second + silentAfter, "no connection"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, s := newServer(t, NewMemory(4*blockSize), 8*time.Second, 700)
				asked := 0
				if test.look(0) != nil {
					s.sender.look = func(ctx context.Context) (string, error) {
						asked++
						return test.look(asked)(ctx)
					}
				}
				began := time.Now()
				result := make(chan error, 1)
				go func() {
					_, err := s.Next()
					result <- err
				}()
				if test.sends > 0 {
					time.Sleep(test.sends)
					if busy := s.Busy(); (busy != "") != (test.sends == works) {
						t.Errorf("before it sends it is said to be busy with %q", busy)
					}
					if n := len(srv.statuses); n < int(test.sends/(8*time.Second)) {
						t.Errorf("%d status updates in %s", n, test.sends)
					}
					go srv.write(walData(1, []byte("x")))
					if err := <-result; err != nil {
						t.Fatalf("after %s: %v", time.Since(began), err)
					}
					if busy := s.Busy(); busy != "" {
						t.Errorf("after it has sent it is said to be busy with %q", busy)
					}
				} else {
					err := <-result
					if took := time.Since(began); !errors.Is(err, ErrSilent) || !strings.Contains(err.Error(), test.says) || took != test.gaveUp {
						t.Errorf("after %s: %v; want it after %s, with %q", took, err, test.gaveUp, test.says)
					}
				}
				s.Close() // ends the question, too
			})
		})
	}
}

// Closing a stream ends the question that is out.
func TestCloseEndsTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := newServer(t, NewMemory(4*blockSize), 8*time.Second, 700)
		over := false
		s.sender.look = func(ctx context.Context) (string, error) {
			<-ctx.Done()
			over = true
			return "", ctx.Err()
		}
		why := errors.New("enough")
		go func() {
			time.Sleep(s.askAfter() + time.Second)
			s.Interrupt(why)
		}()
		if _, err := s.Next(); err != why {
			t.Fatalf("Next returned %v", err)
		}
		if s.Close(); !over {
			t.Error("the question goes on")
		}
	})
}

// What a walsender waits for says whether it would answer.
func TestWork(t *testing.T) {
	for _, test := range []struct {
		eventType, event string
		atWork           bool
	}{
		{"", "", true}, // on a processor
		{"IO", "ReorderBufferRead", true},
		{"IO", "WALRead", true},
		{"LWLock", "BufferMapping", true},
		{"Lock", "relation", true},
		{"Activity", "WalSenderMain", false},
		{"Client", "WalSenderWaitForWAL", false},
		{"Client", "WalSenderWriteData", false},
		{"Client", "ClientWrite", false},
		{"Client", "WaitForStandbyConfirmation", false},
	} {
		what, err := work(7, test.eventType, test.event)
		if (err == nil) != test.atWork || test.atWork && !strings.Contains(what, "pid 7") {
			t.Errorf("%s/%s: %q, %v", test.eventType, test.event, what, err)
		}
	}
}
