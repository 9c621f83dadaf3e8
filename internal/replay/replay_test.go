package replay

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/flow"
	"outboxd/internal/leak"
	"outboxd/internal/record"
	"outboxd/internal/replication"
	"outboxd/sink"
)

func TestMain(m *testing.M) { leak.Main(m, "outboxd/internal/replay.") }

// frames is a stream of prepared frames.
type frames struct{ queue []replication.Frame }

func (f *frames) Next() (replication.Frame, error) {
	if len(f.queue) == 0 {
		return replication.Frame{}, io.EOF
	}
	next := f.queue[0]
	f.queue = f.queue[1:]
	return next, nil
}
func (f *frames) Block() *replication.Block { return nil }

func (f *frames) add(data ...byte) { f.queue = append(f.queue, replication.Frame{Data: data}) }
func (f *frames) keepalive(at pglogrepl.LSN) {
	f.queue = append(f.queue, replication.Frame{Kind: replication.Keepalive, WALEnd: at})
}
func (f *frames) transaction(commit pglogrepl.LSN, messages string) {
	f.add(binary.BigEndian.AppendUint64([]byte{'B'}, uint64(commit))...)
	for _, m := range []byte(messages) {
		f.add(m, byte(commit>>4))
	}
	f.add('C')
}

// read returns the first bytes of what a source yields.
func read(s *Source) (kinds string, err error) {
	for {
		frame, err := s.Next()
		if err != nil {
			return kinds, err
		}
		if frame.Data == nil {
			return kinds, errors.New("a keepalive")
		}
		kinds += string(frame.Data[0])
	}
}

func TestWindow(t *testing.T) {
	for name, test := range map[string]struct {
		from, to pglogrepl.LSN
		want     string
		end      bool
	}{
		"all": {0x100, 0x400, "BRIICBRMIC", true},
		"what comes before keeps its tables only": {0x200, 0x400, "BRCBRMIC", true},
		"from is inclusive":                       {0x110, 0x400, "BRIICBRMIC", true},
		"to is exclusive":                         {0x100, 0x210, "BRIIC", true},
		"up to a keepalive":                       {0x100, 0x180, "BRIIC", true},
		"up to what is not written":               {0x100, 0x500, "BRIICBRMIC", false},
		"nothing":                                 {0x120, 0x180, "BRC", true},
	} {
		f := &frames{}
		f.keepalive(0x108)
		f.transaction(0x110, "RII")
		f.keepalive(0x180)
		f.transaction(0x210, "RMI")
		f.keepalive(0x400)
		got, err := read(New(f, test.from, test.to))
		if got != test.want || (err == flow.ErrEnd) != test.end || !test.end && err != io.EOF {
			t.Errorf("%s: %s, %v; want %s", name, got, err, test.want)
		}
	}
}

// A keepalive inside a transaction does not end the window: its events are still to come.
func TestKeepaliveInsideTransaction(t *testing.T) {
	f := &frames{}
	f.add(binary.BigEndian.AppendUint64([]byte{'B'}, 0x110)...)
	f.keepalive(0x400)
	f.add('I')
	f.add('C')
	f.keepalive(0x400)
	if got, err := read(New(f, 0x100, 0x200)); got != "BIC" || err != flow.ErrEnd {
		t.Errorf("%s, %v", got, err)
	}
}

// A message outside of a transaction is nobody's, whatever came before.
func TestMessageBetweenTransactions(t *testing.T) {
	f := &frames{}
	f.transaction(0x110, "I")
	f.add('M')
	f.add() // the decoder says what it thinks of that
	f.keepalive(0x400)
	s := New(f, 0x200, 0x400)
	var got []string
	for {
		frame, err := s.Next()
		if err != nil {
			break
		}
		got = append(got, string(frame.Data[:min(1, len(frame.Data))]))
	}
	if s := strings.Join(got, ","); s != "B,C,M," {
		t.Errorf("%q", s)
	}
}

// counted is where a Counter sends to, and what a delivery tells.
type counted struct {
	flow.Sink
	sent, returned, acked, released int
	err                             error
}

func (c *counted) Return()                   { c.returned++ }
func (c *counted) Send(*sink.Delivery) error { c.sent++; return c.err }
func (c *counted) Acknowledge()              { c.acked++ }
func (c *counted) Charge(int)                {}
func (c *counted) Release(int)               { c.released++ }

func TestCounter(t *testing.T) {
	for _, dry := range []bool{false, true} {
		k := &counted{}
		c := Counter{Sink: k, Dry: dry}
		for _, at := range []decoder.Position{{CommitLSN: 1, Number: 1}, {CommitLSN: 1, Number: 3}, {CommitLSN: 2, Number: 1}} {
			if err := c.Send(&sink.Delivery{Receipt: k, Memory: k, Record: record.Record{Position: at}}); err != nil {
				t.Fatal(err)
			}
		}
		if c.Events != 3 || c.Transactions != 2 {
			t.Errorf("dry %t: %d events, %d transactions", dry, c.Events, c.Transactions)
		}
		want := counted{sent: 3}
		if dry {
			want = counted{returned: 3, acked: 3, released: 3}
		}
		if *k != (counted{Sink: k.Sink, sent: want.sent, returned: want.returned, acked: want.acked, released: want.released}) {
			t.Errorf("dry %t: %+v", dry, *k)
		}
		k.err = io.EOF
		if err := c.Send(&sink.Delivery{Receipt: k, Memory: k}); !dry && (err != io.EOF || c.Events != 3) {
			t.Errorf("what was not sent is counted: %v, %d", err, c.Events)
		}
	}
}
