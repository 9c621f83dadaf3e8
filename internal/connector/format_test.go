package connector

import (
	"errors"
	"strings"
	"testing"
	"time"

	"outboxd/decoder"
	"outboxd/internal/flow"
	"outboxd/internal/format"
	"outboxd/internal/record"
)

// failing fails for the event "2" until nothing is left of failures.
type failing struct {
	err      error
	failures int
}

func (f *failing) Value(ev *format.Event, _ *record.Record) ([]byte, error) {
	if string(ev.Values[decoder.ID]) == "2" && f.failures > 0 {
		f.failures--
		return nil, f.err
	}
	return ev.Values[decoder.Payload], nil
}

// What a format says of an event decides what becomes of it: what may pass is tried
// again, and an event that can never be written ends the run after those before it.
func TestErrorsOfAFormat(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		passes bool
		is     error
	}{
		"of the event":       {errors.New("its payload is odd"), false, flow.ErrPoison},
		"of the subject":     {format.ErrSchemaRefused, false, format.ErrSchemaRefused},
		"of the registry":    {&format.RegistryError{Err: errors.New("busy")}, true, nil},
		"of what was served": {&format.WaitError{Err: errors.New("connection lost")}, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			f := &failing{test.err, 1}
			h.o.Format.Format = f
			tx := h.server.commit("1", "2", "3")
			h.run()
			if test.passes {
				h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
				h.stop()
				if err := h.end(); err != nil {
					t.Error(err)
				}
			} else if err := h.end(); !errors.Is(err, test.is) || !strings.Contains(err.Error(), `event id "2"`) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// waiting asks somebody else about its first event, and hears nothing until the stream
// is served.
type waiting struct {
	server *fakeServer
	asked  bool
}

func (w *waiting) Value(ev *format.Event, _ *record.Record) ([]byte, error) {
	if w.asked {
		return nil, nil
	}
	w.asked = true
	return nil, ev.Outbox.Wait(func() {
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			w.server.mu.Lock()
			served := w.server.serves > 0
			w.server.mu.Unlock()
			if served {
				return
			}
		}
		w.server.t.Error("PostgreSQL was not served while the format waited")
	})
}

func TestPostgreSQLIsServedWhileAFormatWaits(t *testing.T) {
	h := newHarness(t)
	h.o.Format.Format = &waiting{server: h.server}
	tx := h.server.commit("1", "2")
	h.run()
	h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
}
