package connector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/flow"
	"outboxd/internal/replication"
	"outboxd/offsets"
)

// memoryStore is a store that fails or hangs when it is told to.
type memoryStore struct {
	saved *offsets.Position
	mu    sync.Mutex
	fail  func(ctx context.Context) error
}

func (s *memoryStore) set(fail func(ctx context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func (s *memoryStore) Load(context.Context) (*offsets.Position, error) { return s.saved, nil }
func (s *memoryStore) Save(ctx context.Context, p offsets.Position) error {
	s.mu.Lock()
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		if err := fail(ctx); err != nil {
			return err
		}
	}
	s.saved = &p
	return nil
}

func TestStopConfirms(t *testing.T) {
	h := newHarness(t)
	tx := h.server.commit("1", "2")
	h.run()
	h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
	h.stop()
	if err := h.end(); err != nil {
		t.Errorf("the stop: %v", err)
	}
	if h.log.count("drained and confirmed") != 1 || h.log.count("fault") != 0 {
		t.Error("the stop is not logged as what it is")
	}
	if ids := h.records(); !slices.Equal(ids, []string{"1", "2"}) {
		t.Errorf("records %q", ids)
	}
}

// A stop whose last store fails is not clean, whatever was delivered, and keeps its
// deadline whether the store fails or hangs.
func TestStopWithoutAStore(t *testing.T) {
	for name, fail := range map[string]func(ctx context.Context) error{
		"fails": func(context.Context) error { return errors.New("disk full") },
		"hangs": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			store := &memoryStore{}
			h.o.Store, h.o.ConfirmEvery, h.o.DrainTimeout = store, time.Hour, time.Second
			h.run()
			h.logged(`"message":"streaming"`)
			store.set(fail) // from the first save of a position on
			h.server.commit("1")
			h.delivered()
			h.stop()
			if err := h.end(); !errors.Is(err, ErrUnclean) {
				t.Errorf("the stop: %v", err)
			}
			if h.log.count("drained and confirmed") != 0 {
				t.Error("it says that everything was confirmed")
			}
		})
	}
}

// A stop while there is no session confirms what was published before, or says that
// it could not.
func TestStopDuringFault(t *testing.T) {
	for _, back := range []bool{true, false} {
		h := newHarness(t)
		h.o.ConfirmEvery = time.Hour
		if !back {
			h.o.DrainTimeout = time.Second
		}
		h.run()
		tx := h.server.commit("1")
		h.delivered()
		h.server.update(func() { h.server.refuse, h.server.ended = io.ErrUnexpectedEOF, io.ErrUnexpectedEOF })
		h.logged("not streaming")
		h.stop()
		if back {
			h.logged("stopping during a fault")
			h.server.update(func() { h.server.refuse = nil })
		}
		err := h.end()
		if got := h.server.slotLSN() == tx.end; got != back || (err == nil) != back {
			t.Errorf("server back %t: confirmed %t, %v", back, got, err)
		}
		if !back && !errors.Is(err, ErrUnclean) {
			t.Errorf("the stop: %v", err)
		}
	}
}

// A transaction that was published in part when the stream broke is read to its end
// when the run stops, so that nothing of it is published again.
func TestStopDuringFaultInsideTransaction(t *testing.T) {
	for _, back := range []bool{true, false} {
		h := newHarness(t)
		h.o.ConfirmEvery, h.o.DrainTimeout = time.Hour, time.Second
		if back {
			h.o.DrainTimeout = time.Minute
		}
		h.run()
		h.logged(`"message":"streaming"`)
		h.server.commit("1")
		h.delivered()
		var tx fakeTx
		h.server.update(func() { // one step: the transaction breaks off after its second row
			tx = fakeTx{commit: h.server.flush + 0x10, end: h.server.flush + 0x40, ids: []string{"2", "3"}, fail: io.ErrUnexpectedEOF}
			h.server.flush += 0x40
			h.server.txs = append(h.server.txs, tx)
			h.server.refuse = io.ErrUnexpectedEOF
		})
		h.logged("not streaming")
		h.until("delivered", func() bool { return len(h.records()) == 3 })
		h.stop()
		h.logged("stopping during a fault")
		if back {
			h.server.update(func() {
				whole := &h.server.txs[len(h.server.txs)-1]
				whole.ids, whole.fail = []string{"2", "3", "4"}, nil
				h.server.refuse = nil
			})
			h.server.commit("5") // is for the next start
		} else {
			h.server.update(func() { h.server.refuse = nil }) // and the transaction breaks off again
		}
		err := h.end()
		switch ids := h.records(); {
		case back && (err != nil || h.server.slotLSN() != tx.end || !slices.Equal(ids, []string{"1", "2", "3", "4"})):
			t.Errorf("the server came back: %v, confirmed %s of %s, records %q", err, h.server.slotLSN(), tx.end, ids)
		case !back && (!errors.Is(err, ErrUnclean) || h.server.slotLSN() >= tx.end || !slices.Equal(ids, []string{"1", "2", "3"})):
			t.Errorf("the server did not come back: %v, confirmed %s of %s, records %q", err, h.server.slotLSN(), tx.end, ids)
		}
		if !back && (err == nil || !strings.Contains(err.Error(), "published in part")) {
			t.Errorf("the stop says %v", err)
		}
	}
}

// A stop after a fault of Kafka, and a stop that meets one, deliver what was not acknowledged,
// if Kafka answers now.
func TestStopAndFaultOfKafka(t *testing.T) {
	for _, during := range []bool{false, true} {
		for _, exactly := range []bool{false, true} {
			t.Run(fmt.Sprintf("while it stops %t, exactly once %t", during, exactly), func(t *testing.T) {
				t.Parallel()
				h := newHarness(t)
				h.o.ConfirmEvery, h.o.RetryMin, h.o.RetryMax, h.o.DrainTimeout = time.Hour, time.Hour, time.Hour, time.Minute
				if exactly {
					h.exactlyOnce()
				}
				var faults atomic.Int32
				asked, answer := make(chan struct{}), make(chan struct{})
				h.kafka.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
					produce := r.(*kmsg.ProduceRequest)
					h.kafka.KeepControl()
					if produce.Topics[0].Topic != "t" && produce.Topics[0].TopicID != h.kafka.TopicInfo("t").TopicID || !faults.CompareAndSwap(0, 1) {
						return nil, nil, false
					}
					close(asked)
					h.kafka.SleepControl(func() { <-answer })
					return refused(produce, kerr.TopicAuthorizationFailed), nil, true
				})
				tx := h.server.commit("1", "2")
				h.run()
				<-asked
				if during {
					h.stop()
					if !exactly { // where the transaction's end waits, and the session for it
						h.logged("draining")
					}
				}
				close(answer)
				if !during {
					h.logged("not streaming")
					h.server.commit("3") // is for the next start
					h.stop()
				}
				if err := h.end(); err != nil {
					t.Errorf("the stop: %v", err)
				}
				if at, ids := h.server.slotLSN(), h.committed(); at != tx.end || !slices.Equal(ids, []string{"1", "2"}) {
					t.Errorf("confirmed %s of %s, records %q", at, tx.end, ids)
				}
			})
		}
	}
}

// A stop that comes before a session has read again what is not confirmed reads that to its
// end too, so that nothing of it is published again.
func TestStopBeforeWhatIsReadAgain(t *testing.T) {
	for name, first := range map[string]func(h *harness, tx *fakeTx){
		"part of a transaction": func(_ *harness, tx *fakeTx) { tx.ids, tx.fail = []string{"1", "2"}, io.ErrUnexpectedEOF },
		"not acknowledged": func(h *harness, _ *fakeTx) {
			h.kafka.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.TopicAuthorizationFailed, Count: 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.o.ConfirmEvery, h.o.DrainTimeout = time.Hour, time.Minute
			whole := fakeTx{commit: fakeStart + 0x10, end: fakeStart + 0x40, ids: []string{"1", "2", "3"}}
			tx := whole
			first(h, &tx)
			var sessions atomic.Int32
			h.server.flush, h.server.txs = whole.end, []fakeTx{tx}
			h.server.onNext = func(s *fakeStream) {
				if s.next > 0 || sessions.Add(1) != 2 {
					return
				}
				h.server.update(func() { h.server.txs[0] = whole })
				h.stop()
				for !s.told() {
					time.Sleep(time.Millisecond)
				}
			}
			h.run()
			if err := h.end(); err != nil {
				t.Errorf("the stop: %v", err)
			}
			if at, ids := h.server.slotLSN(), h.records(); at != whole.end || !slices.Equal(ids, whole.ids) {
				t.Errorf("confirmed %s of %s, records %q", at, whole.end, ids)
			}
		})
	}
}

// A stop that reads on to a commit ends also where the server has sent everything up to it
// and it was not among that.
func TestStopWhereTheCommitDoesNotCome(t *testing.T) {
	at := func(frames ...replication.Frame) *walSource {
		return &walSource{stream: &framesStream{frames: frames}, flow: flow.New(flow.Options{}), stopping: true, finish: 0x110}
	}
	before, after := replication.Frame{Kind: replication.Keepalive, WALEnd: 0x110}, replication.Frame{Kind: replication.Keepalive, WALEnd: 0x111}
	for name, c := range map[string]struct {
		source *walSource
		frames int
	}{"sent up to it": {at(before, after, after), 2}, "sent past it": {at(after, after), 1}} {
		n := 0
		for ; ; n++ {
			if _, err := c.source.Next(); err != nil {
				if !errors.Is(err, errStopping) {
					t.Errorf("%s: %v", name, err)
				}
				break
			}
		}
		if n != c.frames {
			t.Errorf("%s: it ends after %d frames, want %d", name, n, c.frames)
		}
	}
}

// framesStream has these frames, and then its connection breaks.
type framesStream struct {
	Stream
	frames []replication.Frame
}

func (s *framesStream) Next() (replication.Frame, error) {
	if len(s.frames) == 0 {
		return replication.Frame{}, io.ErrUnexpectedEOF
	}
	f := s.frames[0]
	s.frames = s.frames[1:]
	return f, nil
}

// A process that has published nothing has nothing to confirm.
func TestStopDuringFaultWithNothingSent(t *testing.T) {
	h := newHarness(t)
	h.server.refuse = io.ErrUnexpectedEOF
	h.run()
	h.logged("not streaming")
	h.stop()
	if err := h.end(); err != nil {
		t.Errorf("the stop: %v", err)
	}
}

// Whatever hangs, a stop ends by its deadline, and at once after a second signal.
func TestStopEnds(t *testing.T) {
	for name, hang := range map[string]func(h *harness, sent chan struct{}){
		"Kafka": func(h *harness, sent chan struct{}) {
			h.kafka.Control(func(r kmsg.Request) (kmsg.Response, error, bool) {
				if _, ok := r.(*kmsg.ProduceRequest); ok {
					close(sent)
					h.kafka.SleepControl(func() { <-h.ended })
				}
				return nil, nil, false
			})
		},
		"PostgreSQL": func(h *harness, sent chan struct{}) { h.server.update(func() { h.server.hang = true; close(sent) }) },
	} {
		for _, second := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				h := newHarness(t)
				h.o.DrainTimeout = 2 * time.Second
				if second {
					h.o.DrainTimeout = time.Hour
				}
				h.run()
				h.logged(`"message":"streaming"`)
				sent := make(chan struct{})
				hang(h, sent)
				h.server.commit("1")
				<-sent
				if name == "PostgreSQL" {
					h.delivered()
				}
				h.stop()
				if second {
					time.Sleep(50 * time.Millisecond)
					h.hurry()
				}
				if err := h.end(); !errors.Is(err, ErrUnclean) {
					t.Errorf("the stop: %v", err)
				}
			})
		}
	}
}
