package connector

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/replication"
	"outboxd/internal/status"
	"outboxd/offsets"
	"outboxd/router"
	"outboxd/sink"
)

// fakeServer is a PostgreSQL with one slot, without its protocol: what is committed
// is decoded from the slot's position on, as pgoutput would.
type fakeServer struct {
	t *testing.T
	// memories are those that streams were given, as weak pointers.
	memories sync.Map

	mu        sync.Mutex
	changed   chan struct{} // closed and replaced with each change
	txs       []fakeTx
	flush     pglogrepl.LSN
	confirmed pglogrepl.LSN
	active    bool  // a connection streams
	held      bool  // another process has the slot
	inUse     int   // connections that were refused for that
	exclusive bool  // as every server is: one connection streams
	refuse    error // of every new connection
	unseen    error // of every look at the outbox
	ended     error // of the stream, once
	finishes  int   // final confirmations that were asked for
	hang      bool  // final confirmations are not answered
	onNext    func(s *fakeStream)
	snapshot  Snapshot     // nil: the slot is there
	timeline  Timeline     // nil: it is a primary
	on        int32        // its timeline, as a new connection has it; the first ended at fakeStart
	waits     atomic.Int32 // streams that are served without being read
	serves    int          // times that something was waited for while the stream was served
}

// serving reports whether a stream waits in Serve.
func (f *fakeServer) serving() bool { return f.waits.Load() > 0 }

// fakeTx is a transaction; its commit record lies between the two positions.
type fakeTx struct {
	commit, end pglogrepl.LSN
	ids         []string
	open        bool                     // its commit is not decoded yet
	row         func(id string) []string // nil: see messages
	fail        error
}

const fakeStart = 0x1000

func newFakeServer(t *testing.T) *fakeServer {
	return &fakeServer{t: t, changed: make(chan struct{}), flush: fakeStart, confirmed: fakeStart, on: 1}
}

// update changes the server and wakes whoever waits for it.
func (f *fakeServer) update(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

// commit commits a transaction that inserts rows with these ids.
func (f *fakeServer) commit(ids ...string) (tx fakeTx) { return f.commitRows(nil, ids...) }

// commitRows commits a transaction that inserts these rows.
func (f *fakeServer) commitRows(row func(id string) []string, ids ...string) (tx fakeTx) {
	f.update(func() {
		tx = fakeTx{commit: f.flush + 0x10, end: f.flush + 0x40, ids: ids, row: row}
		f.flush += 0x40
		f.txs = append(f.txs, tx)
	})
	return tx
}

func (f *fakeServer) slotLSN() pglogrepl.LSN {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.confirmed
}

func (f *fakeServer) refusals() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inUse
}

func (f *fakeServer) open(ctx context.Context, _ replication.Options) (Connection, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if f.refuse != nil {
		return nil, f.refuse
	}
	return &fakeConn{f}, nil
}

type fakeConn struct{ f *fakeServer }

func (c *fakeConn) ReplaceSlot()                                        {}
func (c *fakeConn) Snapshot(context.Context) (Snapshot, error)          { return c.f.snapshot, nil }
func (c *fakeConn) Inspect(ctx context.Context) (offsets.Server, error) { return c.Prepare(ctx, false) }
func (c *fakeConn) StartCopy(context.Context, pglogrepl.LSN, *replication.Memory) (Stream, error) {
	return nil, errors.New("not here")
}
func (c *fakeConn) EndStale(context.Context, replication.Backend) error { return nil }
func (c *fakeConn) Prepare(context.Context, bool) (offsets.Server, error) {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	return offsets.Server{SystemID: "7301", Timeline: c.f.on, Switches: map[int32]pglogrepl.LSN{1: fakeStart}, FlushLSN: c.f.flush, SlotName: "outboxd",
		Slot: &offsets.Slot{Name: "outboxd", ConfirmedFlush: c.f.confirmed, Active: c.f.held}}, nil
}
func (c *fakeConn) Flushed(context.Context) (pglogrepl.LSN, error) {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	return c.f.flush, nil
}
func (c *fakeConn) MakeSlot(context.Context) (*offsets.Slot, error) {
	return nil, errors.New("not here")
}
func (c *fakeConn) Verify(context.Context, offsets.Outbox, *offsets.Slot) error   { return nil }
func (c *fakeConn) Outbox(was offsets.Outbox) offsets.Outbox                      { return was }
func (c *fakeConn) Compared(_ context.Context, err error, _ offsets.Outbox) error { return err }
func (c *fakeConn) FollowTimeline() Timeline                                      { return c.f.timeline }
func (c *fakeConn) WarnTable()                                                    {}
func (c *fakeConn) WarnMoves()                                                    {}
func (c *fakeConn) System() (string, int32)                                       { return "7301", 1 }
func (c *fakeConn) Catalog() replication.Catalog                                  { return replication.Catalog{Database: "shop"} }
func (c *fakeConn) Keeps() time.Duration                                          { return time.Minute }
func (c *fakeConn) Backend() replication.Backend                                  { return replication.Backend{PID: 1} }
func (c *fakeConn) Close()                                                        {}

func (c *fakeConn) Stream(_ context.Context, start, confirmed pglogrepl.LSN, memory *replication.Memory) (Stream, error) {
	c.f.memories.Store(weak.Make(memory), true)
	s := &fakeStream{f: c.f, buffer: replication.NewBuffer(memory), start: max(start, c.f.slotLSN()), wake: make(chan struct{}, 1)}
	var err error
	c.f.update(func() {
		if c.f.held || c.f.active && c.f.exclusive {
			c.f.inUse++
			err = replication.SlotInUse(errors.New("it is active"))
			return
		}
		c.f.active = true
		c.f.confirmed = max(c.f.confirmed, confirmed)
	})
	return s, err
}

// fakeObserver finds the outbox published as it was.
type fakeObserver struct{ f *fakeServer }

func (fakeObserver) At(net.Addr) {}
func (o fakeObserver) Look(_ context.Context, was offsets.Outbox) (offsets.Outbox, bool, error) {
	o.f.mu.Lock()
	defer o.f.mu.Unlock()
	return was, false, o.f.unseen
}
func (fakeObserver) Health(context.Context) (*replication.Health, error) { return nil, nil }
func (fakeObserver) Close()                                              {}

// fakeStream is the stream of one connection.
type fakeStream struct {
	f      *fakeServer
	buffer *replication.Buffer
	start  pglogrepl.LSN
	next   int // of f.txs
	queue  [][]byte
	failed error // after the queue
	wake   chan struct{}

	mu          sync.Mutex
	interrupted error
	closed      bool
}

func (s *fakeStream) Next() (replication.Frame, error) {
	if s.f.onNext != nil {
		s.f.onNext(s)
	}
	for {
		s.mu.Lock()
		err := s.interrupted
		s.mu.Unlock()
		if err != nil {
			return replication.Frame{}, err
		}
		if len(s.queue) > 0 {
			m := s.queue[0]
			s.queue = s.queue[1:]
			data, err := s.buffer.Make(context.Background(), len(m))
			copy(data, m)
			return replication.Frame{Kind: replication.WALData, Data: data}, err
		}
		if s.failed != nil {
			return replication.Frame{}, s.failed
		}
		s.f.mu.Lock()
		changed := s.f.changed
		if s.next < len(s.f.txs) {
			tx := s.f.txs[s.next]
			s.next++
			if tx.commit >= s.start {
				s.queue, s.failed = tx.messages(), tx.fail
			}
			s.f.mu.Unlock()
			continue
		}
		err, s.f.ended = s.f.ended, nil
		s.f.mu.Unlock()
		if err != nil {
			return replication.Frame{}, err
		}
		select {
		case <-changed:
		case <-s.wake:
		}
	}
}

func (s *fakeStream) Block() *replication.Block { return s.buffer.Block() }
func (s *fakeStream) Interrupt(err error) {
	s.mu.Lock()
	s.interrupted = err
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// told reports whether an interruption waits for Next.
func (s *fakeStream) told() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.interrupted != nil
}
func (s *fakeStream) Resume(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.interrupted == err {
		s.interrupted = nil
	}
}
func (s *fakeStream) ClearInterrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interrupted = nil
}
func (s *fakeStream) Addr() net.Addr { return nil }
func (s *fakeStream) Confirm(c offsets.Confirmed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.f.update(func() { s.f.confirmed = max(s.f.confirmed, c.LSN()) })
}
func (s *fakeStream) Received() pglogrepl.LSN { return s.start }
func (s *fakeStream) Busy() string            { return "" }
func (s *fakeStream) Alive() time.Time        { return time.Now() }
func (s *fakeStream) Serve(ctx context.Context, done <-chan struct{}) error {
	s.f.update(func() { s.f.serves++ })
	s.f.waits.Add(1)
	defer s.f.waits.Add(-1)
	for {
		s.mu.Lock()
		err := s.interrupted
		s.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.wake:
		}
	}
}
func (s *fakeStream) Finish(ctx context.Context, _ replication.Options) error {
	defer s.Close()
	var hang bool
	var refuse error
	s.f.update(func() { s.f.finishes++; hang, refuse = s.f.hang, s.f.refuse })
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return refuse
}
func (s *fakeStream) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.buffer.Close()
		s.f.update(func() { s.f.active = false })
	}
}

// messages are the transaction as pgoutput sends it, with the table's definition.
func (tx fakeTx) messages() (m [][]byte) {
	begin := append([]byte{'B'}, binary.BigEndian.AppendUint64(nil, uint64(tx.commit))...)
	begin = binary.BigEndian.AppendUint64(begin, 0)
	begin = binary.BigEndian.AppendUint32(begin, 7)
	relation := slices.Concat([]byte{'R', 0, 0, 0, 1}, []byte("public\x00outbox\x00d"), []byte{0, byte(len(fakeColumns))})
	for _, c := range fakeColumns {
		relation = slices.Concat(relation, []byte{0}, []byte(c), []byte{0}, []byte{0, 0, 0, 25}, []byte{255, 255, 255, 255})
	}
	m = append(m, begin, relation)
	for _, id := range tx.ids {
		row := []byte{'I', 0, 0, 0, 1, 'N', 0, byte(len(fakeColumns))}
		values := []string{id, "t", "a", "k", "{}"}
		if tx.row != nil {
			values = tx.row(id)
		}
		for _, v := range values {
			row = append(row, 't')
			row = binary.BigEndian.AppendUint32(row, uint32(len(v)))
			row = append(row, v...)
		}
		m = append(m, row)
	}
	if tx.open || tx.fail != nil {
		return m
	}
	commit := []byte{'C', 0}
	commit = binary.BigEndian.AppendUint64(commit, uint64(tx.commit))
	commit = binary.BigEndian.AppendUint64(commit, uint64(tx.end))
	return append(m, binary.BigEndian.AppendUint64(commit, 0))
}

var fakeColumns = []string{"id", "type", "aggregatetype", "aggregateid", "payload"}

// harness is a pipeline between a fake server and an in-process broker.
type harness struct {
	t      *testing.T
	server *fakeServer
	kafka  *kfake.Cluster
	o      Options
	log    *lines
	p      *Connector

	stop, hurry func()
	ended       chan struct{}
	err         error
}

// lines is a log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}
func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
func (l *lines) count(text string) int { return strings.Count(l.String(), text) }

func newHarness(t *testing.T) *harness {
	t.Helper()
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t", "u"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	h := &harness{t: t, server: newFakeServer(t), kafka: kafka, log: &lines{}}
	columns := make([]decoder.Column, decoder.NumFields)
	for f, name := range map[decoder.Field]string{decoder.ID: "id", decoder.Type: "type", decoder.AggregateType: "aggregatetype", decoder.AggregateID: "aggregateid", decoder.Payload: "payload"} {
		columns[f].Name = name
	}
	h.o = Options{
		Source:       replication.Options{Slot: "outboxd"},
		Table:        decoder.Table{Schema: "public", Name: "outbox", Columns: columns},
		Rules:        router.Rules{Topic: "t", Key: decoder.AggregateID, Partition: decoder.NoField},
		Sink:         sink.Options{Brokers: kafka.ListenAddrs(), Compression: "none", Client: []kgo.Opt{kgo.MetadataMinAge(10 * time.Millisecond)}},
		ConfirmEvery: 10 * time.Millisecond,
		RetryMin:     10 * time.Millisecond,
		RetryMax:     100 * time.Millisecond,
		DrainTimeout: patience / 2,
		MemoryLimit:  16 << 20,
		Log:          zerolog.New(h.log),
		Status:       status.New(time.Minute),
	}
	return h
}

// run starts the pipeline.
func (h *harness) run() {
	h.t.Helper()
	h.p = New(h.o)
	h.p.open, h.p.observer = h.server.open, fakeObserver{h.server}
	ctx, stop := context.WithCancel(context.Background())
	hurry, hurryNow := context.WithCancel(context.Background())
	h.stop, h.hurry, h.ended = stop, hurryNow, make(chan struct{})
	go func() {
		defer close(h.ended)
		h.err = h.p.Run(ctx, hurry)
	}()
	h.t.Cleanup(func() {
		stop()
		hurryNow()
		<-h.ended
		h.server.memories.Range(func(memory, _ any) bool {
			h.isFree(memory.(weak.Pointer[replication.Memory]))
			return true
		})
		if h.t.Failed() {
			h.t.Log(h.log)
		}
	})
}

// isFree checks that with nobody reading and nothing in flight no memory is in use. The
// client's goroutines may still be giving some back. Memory that nobody holds any more
// was collected with its sink.
func (h *harness) isFree(memory weak.Pointer[replication.Memory]) {
	m := memory.Value()
	for end := time.Now().Add(patience); m != nil && m.Used() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			h.t.Errorf("after the end memory is in use: %s", m.Accounts())
			return
		}
	}
}

// patience is how long a test waits for what has to come. No test needs it to be short.
const patience = 30 * time.Second

// end waits for the end of Run.
func (h *harness) end() error {
	h.t.Helper()
	select {
	case <-h.ended:
		return h.err
	case <-time.After(patience):
		h.t.Fatalf("still running after %s", patience)
		return nil
	}
}

// until waits for a state.
func (h *harness) until(what string, is func() bool) {
	h.t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		select {
		case <-h.ended:
			h.t.Fatalf("ended with %v, and not: %s", h.err, what)
		default:
		}
		if time.Now().After(end) {
			h.t.Fatalf("not in time: %s", what)
		}
	}
}

func (h *harness) logged(text string) {
	h.until("log "+text, func() bool { return h.log.count(text) > 0 })
}

// delivered waits for the first acknowledgement.
func (h *harness) delivered() {
	h.t.Helper()
	h.until("delivered", func() bool { return !h.o.Status.Acknowledged().IsZero() })
}

// records are the values of header id of all records of the topic.
func (h *harness) records() []string { return h.ids(kgo.ReadUncommitted()) }

// ids are the values of header id of what a reader sees up to the topic's end as it is
// now.
func (h *harness) ids(isolation kgo.IsolationLevel) (ids []string) {
	h.t.Helper()
	const topic = "t"
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	list := h.admin().ListEndOffsets
	if isolation == kgo.ReadCommitted() {
		list = h.admin().ListCommittedOffsets
	}
	ends, err := list(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	end, _ := ends.Lookup(topic, 0)
	client, err := kgo.NewClient(kgo.SeedBrokers(h.kafka.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.FetchMaxWait(50*time.Millisecond),
		kgo.FetchIsolationLevel(isolation), kgo.KeepControlRecords())
	if err != nil {
		h.t.Fatal(err)
	}
	defer client.Close()
	for next := int64(0); next < end.Offset; {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			h.t.Fatalf("read up to %d of %d", next, end.Offset)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			for _, header := range r.Headers {
				if header.Key == "id" {
					ids = append(ids, string(header.Value))
				}
			}
		})
	}
	return ids
}
