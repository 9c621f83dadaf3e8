package flow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"outboxd/decoder"
	"outboxd/internal/leak"
	"outboxd/internal/poison"
	"outboxd/internal/record"
	"outboxd/offsets"
	"outboxd/sink"

	"github.com/jackc/pglogrepl"
)

func TestMain(m *testing.M) { leak.Main(m, "outboxd/internal/flow.") }

// frames is a source of prepared frames.
type frames struct {
	queue    []Frame
	end      error
	retained int
}

func (f *frames) Next() (Frame, error) {
	if len(f.queue) == 0 {
		return Frame{}, f.end
	}
	next := f.queue[0]
	f.queue = f.queue[1:]
	return next, nil
}
func (f *frames) Retain() sink.Memory { f.retained++; return f }
func (f *frames) Charge(int)          {}
func (f *frames) Release(int)         { f.retained-- }

// toTopic routes by the aggregate's type: "bad" is an error, "none" is discarded.
type toTopic struct{}

func (toTopic) Route(ev *decoder.Event, m *record.Record) error {
	switch m.Topic = string(ev.Values[decoder.AggregateType]); m.Topic {
	case "bad":
		return errors.New("no topic of this name")
	case "none":
		m.Topic = ""
	}
	return nil
}

// asIs writes the payload.
type asIs struct{}

func (asIs) Encode(ev *decoder.Event, r *record.Record) error {
	if string(ev.Values[decoder.AggregateType]) == "unwritable" {
		return fmt.Errorf("%w: no JSON", record.ErrUndeliverable)
	}
	r.Position, r.Value = ev.Position, ev.Values[decoder.Payload]
	return nil
}

// kafka keeps what it is sent, and refuses what goes to some topics.
type kafka struct {
	sent   []*sink.Delivery
	refuse map[string]error
	open   int // deliveries that were taken and neither sent nor returned
}

func (k *kafka) Next() *sink.Delivery { k.open++; return &sink.Delivery{} }
func (k *kafka) Return()              { k.open-- }
func (k *kafka) Send(d *sink.Delivery) error {
	k.open--
	if err := k.refuse[d.Topic]; err != nil {
		return err
	}
	k.sent = append(k.sent, d)
	return nil
}
func (k *kafka) ack() {
	for _, d := range k.sent {
		d.Memory.Release(0)
		d.Receipt.Acknowledge()
	}
}
func (k *kafka) topics() (t []string) {
	for _, d := range k.sent {
		t = append(t, d.Topic)
	}
	return t
}

var columns = []string{"id", "type", "aggregatetype", "aggregateid", "payload"}

// transaction is one as pgoutput sends it, with a row for each aggregate type.
func transaction(commit, end pglogrepl.LSN, types ...string) (q []Frame) {
	add := func(data []byte) { q = append(q, Frame{Data: data}) }
	begin := binary.BigEndian.AppendUint64([]byte{'B'}, uint64(commit))
	add(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(begin, 0), 7))
	relation := slices.Concat([]byte{'R', 0, 0, 0, 1}, []byte("public\x00outbox\x00d"), []byte{0, byte(len(columns))})
	for _, c := range columns {
		relation = slices.Concat(relation, []byte{0}, []byte(c), []byte{0}, []byte{0, 0, 0, 25}, []byte{255, 255, 255, 255})
	}
	add(relation)
	for i, aggregate := range types {
		row := []byte{'I', 0, 0, 0, 1, 'N', 0, byte(len(columns))}
		for _, v := range []string{fmt.Sprint(i + 1), "t", aggregate, "k", "{}"} {
			row = append(binary.BigEndian.AppendUint32(append(row, 't'), uint32(len(v))), v...)
		}
		add(row)
	}
	tail := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{'C', 0}, uint64(commit)), uint64(end))
	add(binary.BigEndian.AppendUint64(tail, 0))
	return q
}

// world is a flow between fakes.
type world struct {
	source  *frames
	kafka   *kafka
	tracker *offsets.Tracker
	o       Options
}

func newWorld(queue ...Frame) *world {
	table := decoder.Table{Schema: "public", Name: "outbox", Columns: make([]decoder.Column, decoder.NumFields)}
	for f, name := range map[decoder.Field]string{decoder.ID: "id", decoder.Type: "type", decoder.AggregateType: "aggregatetype", decoder.AggregateID: "aggregateid", decoder.Payload: "payload"} {
		table.Columns[f].Name = name
	}
	w := &world{source: &frames{queue: queue, end: ErrEnd}, kafka: &kafka{}, tracker: offsets.NewTracker(0x100)}
	w.o = Options{Source: w.source, Decoder: decoder.New(table), Router: toTopic{}, Format: asIs{}, Sink: w.kafka, Tracker: w.tracker}
	return w
}

func (w *world) expect(t *testing.T, topics string, confirmed pglogrepl.LSN) {
	t.Helper()
	if got := strings.Join(w.kafka.topics(), " "); got != topics {
		t.Errorf("sent to %q, want %q", got, topics)
	}
	if w.kafka.open != 0 {
		t.Errorf("%d deliveries were taken and neither sent nor returned", w.kafka.open)
	}
	w.kafka.ack()
	if got := w.tracker.Confirmed().LSN(); got != confirmed {
		t.Errorf("confirmed %s, want %s", got, confirmed)
	}
	if w.source.retained != 0 {
		t.Errorf("the memory of %d events is still held", w.source.retained)
	}
}

// Events reach the sink in order, and positions the tracker; what a rule discards and
// what was delivered before does not, and is confirmed with its transaction.
func TestFlow(t *testing.T) {
	w := newWorld(slices.Concat(transaction(0x110, 0x140, "a", "none", "b"), []Frame{{WALEnd: 0x150}}, transaction(0x160, 0x190, "c", "d"), []Frame{{WALEnd: 0x1A0}})...)
	discarded := 0
	w.o.Discarded = func() { discarded++ }
	w.o.Skip = decoder.Position{CommitLSN: 0x110, Number: 1}
	f := New(w.o)
	if err := f.Run(); err != nil {
		t.Fatal(err)
	}
	if discarded != 1 || f.Published() != (decoder.Position{CommitLSN: 0x160, Number: 2}) || f.Reading() != 0 || f.Begun() {
		t.Errorf("discarded %d, published %s, reading %s", discarded, f.Published(), f.Reading())
	}
	if got := w.tracker.Confirmed().LSN(); got != 0x100 {
		t.Errorf("confirmed %s before Kafka has acknowledged anything", got)
	}
	w.expect(t, "b c d", 0x1A0)
}

// A source that fails inside a transaction leaves it open.
func TestSourceFails(t *testing.T) {
	w := newWorld(transaction(0x110, 0x140, "a", "b")[:3]...)
	w.source.end = fmt.Errorf("read: %w", ErrEnd) // only ErrEnd itself is the end
	f := New(w.o)
	if err := f.Run(); err == nil || err.Error() != "read: "+ErrEnd.Error() {
		t.Errorf("ended with %v", err)
	}
	if f.Reading() != 0x110 || !f.Begun() {
		t.Errorf("reading %s, begun %t", f.Reading(), f.Begun())
	}
	w.expect(t, "a", 0x100)
}

// An event that can never be delivered ends the flow before it, whoever finds out, and
// the error names it.
func TestPoisonStops(t *testing.T) {
	bad := errors.New("too large")
	for name, test := range map[string]func(w *world){
		"router": func(w *world) { w.source.queue = transaction(0x110, 0x140, "a", "bad", "c") },
		"format": func(w *world) { w.source.queue = transaction(0x110, 0x140, "a", "unwritable", "c") },
		"sink": func(w *world) {
			w.kafka.refuse = map[string]error{"b": fmt.Errorf("%w: %w", sink.ErrUndeliverable, bad)}
		},
		"broker": func(w *world) {
			w.o.Refused = Refusals{}
			w.o.Refused.Add(Refused{decoder.Position{CommitLSN: 0x110, Number: 2}, "2"}, bad)
		},
		"a door that does not want it": func(w *world) {
			w.source.queue = transaction(0x110, 0x140, "a", "bad", "c")
			w.o.Poison = func(Poisoned, *sink.Delivery) (bool, error) { return false, nil }
		},
	} {
		w := newWorld(transaction(0x110, 0x140, "a", "b", "c")...)
		test(w)
		err := New(w.o).Run()
		var poison *PoisonError
		if !errors.As(err, &poison) || !errors.Is(err, ErrPoison) || poison.Position != (decoder.Position{CommitLSN: 0x110, Number: 2}) {
			t.Fatalf("%s: %v", name, err)
		}
		if !strings.HasPrefix(err.Error(), `poison event: event id "2" at position 0000000000000110-00000002: `) {
			t.Errorf("%s: %v", name, err)
		}
		w.expect(t, "a", 0x100)
	}
}

// An error that may pass is none of the event's.
func TestFaultIsNoPoison(t *testing.T) {
	fault := errors.New("the registry is down")
	w := newWorld(transaction(0x110, 0x140, "a", "b")...)
	w.kafka.refuse = map[string]error{"b": fault}
	if err := New(w.o).Run(); errors.Is(err, ErrPoison) || !errors.Is(err, fault) || !strings.Contains(err.Error(), `event id "2"`) {
		t.Error(err)
	}
	w.expect(t, "a", 0x100)
}

// What is sent instead of an event is counted as the event would be: no position passes
// it before it is acknowledged.
func TestPoisonDoor(t *testing.T) {
	letters := func(e Poisoned, d *sink.Delivery) (bool, error) {
		d.Topic = "letters-" + string(e.Event.Values[decoder.ID])
		return e.Cause != nil, nil
	}
	w := newWorld(slices.Concat(transaction(0x110, 0x140, "a", "bad", "c"), transaction(0x150, 0x180, "bad"))...)
	w.o.Poison = letters
	w.o.Refused = Refusals{}
	w.o.Refused.Add(Refused{decoder.Position{CommitLSN: 0x110, Number: 1}, "1"}, errors.New("refused"))
	f := New(w.o)
	if err := f.Run(); err != nil {
		t.Fatal(err)
	}
	if f.Published() != (decoder.Position{CommitLSN: 0x150, Number: 1}) {
		t.Errorf("published %s", f.Published())
	}
	if got := w.kafka.sent[1].Position; got != (decoder.Position{CommitLSN: 0x110, Number: 2}) {
		t.Errorf("what is sent instead has position %s", got)
	}
	for i, d := range w.kafka.sent[:3] {
		d.Receipt.Acknowledge()
		d.Memory.Release(0)
		if got, want := w.tracker.Confirmed().LSN(), pglogrepl.LSN(0x100); i < 2 && got != want {
			t.Errorf("confirmed %s with %d of 3 acknowledged", got, i+1)
		}
	}
	if got := w.tracker.Confirmed().LSN(); got != 0x140 {
		t.Errorf("confirmed %s after the first transaction", got)
	}
	first := w.kafka.topics()
	w.kafka.sent = w.kafka.sent[3:]
	w.expect(t, "letters-1", 0x180)
	if want := []string{"letters-1", "letters-2", "c", "letters-1"}; !slices.Equal(first, want) {
		t.Errorf("sent to %q, want %q", first, want)
	}
}

// A record that cannot be sent instead ends the run, and one that Kafka has refused is
// not tried again for ever. A fault of the door is tried again.
func TestPoisonDoorFails(t *testing.T) {
	fault := errors.New("no answer")
	for name, test := range map[string]struct {
		door   Poison
		prep   func(w *world)
		poison bool
		says   string
	}{
		"undeliverable": {func(_ Poisoned, d *sink.Delivery) (bool, error) { d.Topic = "full"; return true, nil },
			func(w *world) { w.kafka.refuse = map[string]error{"full": sink.ErrUndeliverable} }, true, "instead of it"},
		"a fault while it is sent": {func(_ Poisoned, d *sink.Delivery) (bool, error) { d.Topic = "full"; return true, nil },
			func(w *world) { w.kafka.refuse = map[string]error{"full": fault} }, false, "no answer"},
		"a fault": {func(Poisoned, *sink.Delivery) (bool, error) { return false, fault }, func(*world) {}, false, "no answer"},
		"refused again and again": {func(Poisoned, *sink.Delivery) (bool, error) { panic("asked about its own record") },
			func(w *world) {
				for range maxInstead + 1 {
					w.o.Refused.AddInstead(Refused{decoder.Position{CommitLSN: 0x110, Number: 1}, "1"}, errors.New("the last reason"))
				}
			}, true, "the last reason"},
		"too large, however small": {func(_ Poisoned, d *sink.Delivery) (bool, error) { d.Topic = "full"; return true, nil },
			func(w *world) {
				w.kafka.refuse = map[string]error{"full": poison.TooLarge.Mark(sink.ErrUndeliverable)}
			}, true, "instead of it"},
	} {
		w := newWorld(transaction(0x110, 0x140, "bad")...)
		w.o.Poison, w.o.Refused = test.door, Refusals{}
		test.prep(w)
		err := New(w.o).Run()
		if errors.Is(err, ErrPoison) != test.poison || !strings.Contains(fmt.Sprint(err), test.says) || !strings.Contains(fmt.Sprint(err), `event id "1"`) {
			t.Errorf("%s: %v", name, err)
		}
		w.expect(t, "", 0x100)
	}
}

// What is sent instead is written again while it is too large, and again after Kafka
// refused it.
func TestPoisonDoorAgain(t *testing.T) {
	w := newWorld(transaction(0x110, 0x140, "bad")...)
	w.o.Refused = Refusals{}
	w.o.Refused.AddInstead(Refused{decoder.Position{CommitLSN: 0x110, Number: 1}, "1"}, errors.New("refused"))
	w.kafka.refuse = map[string]error{"try-1": poison.TooLarge.Mark(sink.ErrUndeliverable), "try-2": poison.TooLarge.Mark(sink.ErrUndeliverable)}
	w.o.Poison = func(e Poisoned, d *sink.Delivery) (bool, error) {
		if len(e.Row.Columns) != len(columns) || string(e.Row.Columns[2].Value) != "bad" {
			t.Errorf("the row is %+v", e.Row)
		}
		d.Topic = fmt.Sprint("try-", e.Attempt)
		return true, nil
	}
	if err := New(w.o).Run(); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "try-3", 0x140)
}

// Refusals are kept until their transactions are confirmed.
func TestRefusalsForget(t *testing.T) {
	r := Refusals{}
	before, behind := Refused{decoder.Position{CommitLSN: 0x110, Number: 1}, "a"}, Refused{decoder.Position{CommitLSN: 0x160, Number: 1}, "b"}
	r.Add(before, errors.New("x"))
	r.Add(behind, errors.New("x"))
	r.Forget(0x140)
	if _, ok := r[behind]; !ok || len(r) != 1 {
		t.Errorf("%v", r)
	}
}

// Another event at the same place, of another history of the server, was not refused.
func TestAnotherEventWasRefused(t *testing.T) {
	w := newWorld(transaction(0x110, 0x140, "a")...)
	w.o.Refused = Refusals{}
	w.o.Refused.Add(Refused{decoder.Position{CommitLSN: 0x110, Number: 1}, "another"}, errors.New("refused"))
	if err := New(w.o).Run(); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "a", 0x140)
}

// locked counts how often it was asked for, given up, and whether it is held. Another one
// may have it when the flow asks.
type locked struct {
	taken                  bool
	turn                   chan struct{}
	times, held, withdrawn int
}

func (l *locked) Ask() <-chan struct{} {
	l.times++
	if l.taken {
		l.turn = make(chan struct{})
		return l.turn
	}
	l.held++
	return nil
}
func (l *locked) Withdraw(<-chan struct{}) { l.withdrawn++ }
func (l *locked) Unlock()                  { l.held-- }

// Each message is handled with the gate held, which is open again after an error and
// after a panic.
func TestGate(t *testing.T) {
	gate := &locked{}
	w := newWorld(transaction(0x110, 0x140, "a", "bad")...)
	w.o.Gate = gate
	if err := New(w.o).Run(); !errors.Is(err, ErrPoison) || gate.times != 4 || gate.held != 0 {
		t.Errorf("%v: locked %d times, held %d", err, gate.times, gate.held)
	}
	func() {
		defer func() { _ = recover() }()
		w := newWorld(transaction(0x110, 0x140, "bad")...)
		w.o.Gate, w.o.Poison = gate, func(Poisoned, *sink.Delivery) (bool, error) { panic("x") }
		_ = New(w.o).Run()
		t.Error("no panic")
	}()
	if gate.held != 0 {
		t.Error("the gate is still held after a panic")
	}
}

// A gate that another one holds is waited for as Options says; what ends the waiting ends
// the flow, before the message.
func TestGateIsWaitedFor(t *testing.T) {
	gate, waits := &locked{taken: true}, 0
	w := newWorld(transaction(0x110, 0x140, "a")...)
	w.o.Gate = gate
	gone := errors.New("the server has gone")
	w.o.Wait = func(turn <-chan struct{}) error {
		if turn != gate.turn {
			t.Error("it waits for something else")
		}
		if waits++; waits == 4 { // for the commit
			return gone
		}
		gate.held++ // it is our turn
		return nil
	}
	f := New(w.o)
	if err := f.Run(); !errors.Is(err, gone) || gate.held != 0 || gate.withdrawn != 1 {
		t.Errorf("%v: held %d, given up %d times", err, gate.held, gate.withdrawn)
	}
	if !f.Begun() || f.Reading() != 0x110 {
		t.Errorf("begun %t, reading %s", f.Begun(), f.Reading())
	}
}

// Messages outside of a transaction, and what is no pgoutput.
func TestWhatIsNoEvent(t *testing.T) {
	w := newWorld(Frame{Data: []byte{'Y'}}, Frame{Data: []byte{'?'}})
	if err := New(w.o).Run(); !errors.Is(err, decoder.ErrProtocol) || errors.Is(err, ErrPoison) {
		t.Error(err)
	}
}
