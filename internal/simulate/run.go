package simulate

import (
	"context"
	"errors"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/connector"
	"outboxd/internal/deadletter"
	"outboxd/internal/positions"
	"outboxd/internal/replication"
	"outboxd/internal/status"
	"outboxd/offsets"
	"outboxd/router"
	"outboxd/sink"
)

// newProcess returns an outboxd as the command wires it, but for the connections.
func (w *world) newProcess(name string, accepts bool) *process {
	return &process{w: w, name: name, accepts: accepts, silent: make(map[side]bool), latency: maps.Clone(w.o.latency),
		ended: make(chan struct{})}
}

// run is the process's main.
func (p *process) run(ctx, hurry context.Context) {
	defer p.over()
	o, store, err := p.options()
	if err != nil {
		p.err = err
		return
	}
	if store != nil {
		defer store.Close()
	}
	p.err = connector.New(o).Run(ctx, hurry)
}

func (p *process) options() (o connector.Options, store *positions.Store, err error) {
	w := p.w
	log := zerolog.New(logWriter{&w.history, p.name}).Level(zerolog.InfoLevel)
	table := decoder.Table{Schema: "public", Name: "outbox", Columns: make([]decoder.Column, decoder.NumFields)}
	for i, f := range []decoder.Field{decoder.ID, decoder.Type, decoder.AggregateType, decoder.AggregateID, decoder.Payload} {
		table.Columns[f].Name = columns[i]
	}
	if w.o.messages {
		table.MessagePrefix = messagePrefix
	}
	client := []kgo.Opt{kgo.DisableClientMetrics(), kgo.MetadataMinAge(50 * time.Millisecond)}
	o = connector.Options{
		Source: replication.Options{Slot: slotName, Create: true, Backfill: w.o.backfill > 0, Log: log},
		Table:  table,
		Rules:  router.Rules{Topic: "{type}", Key: decoder.AggregateID, Partition: decoder.NoField},
		Sink: sink.Options{Brokers: w.kafka.addresses(), Compression: "none", Log: log,
			Client: client, Dial: p.dial, Clock: p.clock},
		// kfake keeps the first time-out of a transactional id, where brokers take the last:
		// transactions of the stream that are left open last as long.
		BackfillTimeout: 2 * time.Minute,
		ConfirmEvery:    w.o.confirmEvery,
		RetryMin:        100 * time.Millisecond,
		RetryMax:        30 * time.Second,
		DrainTimeout:    25 * time.Second,
		MemoryLimit:     w.o.memory,
		AcceptGap:       p.accepts,
		Rewind:          w.o.rewind,
		Now:             w.timeOfDay,
		Log:             log,
		Status:          status.New(time.Minute),
		Open: func(ctx context.Context, _ replication.Options) (connector.Connection, error) {
			return w.server.connect(ctx, p, "")
		},
		Observer: &observer{s: w.server, p: p},
	}
	o.Sink.Backlog = o.MemoryLimit / 4
	if w.o.byPartition {
		o.Sink.ManyPartitions = 1
	}
	switch {
	case w.o.exactly:
		o.Sink.TransactionalID = "outboxd-" + slotName
		store, err = p.positions(o.Sink, log)
		o.Positions = store
	case w.o.store == "kafka":
		store, err = p.positions(o.Sink, log)
		o.Store = store
	case w.o.store == "file":
		o.Store = &fileStore{p: p, d: &w.disk}
	}
	if w.o.deadLetters {
		o.DeadLetters = deadletter.NewWriter(deadletter.Options{Topic: deadLetterTopic, Always: true, Log: log})
	}
	if store != nil {
		p.owner = store.Owner()
	}
	p.status.Store(o.Status)
	return o, store, err
}

func (p *process) positions(o sink.Options, log zerolog.Logger) (*positions.Store, error) {
	return positions.New(positions.Options{Topic: positionsTopic, Slot: slotName, Log: log,
		Client: append(o.Connection(), kgo.DisableClientMetrics())})
}

func (p *process) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	return p.w.kafka.dial(ctx, p, addr)
}

// clock stands still while the process is paused, as seen by the process itself: it
// sees how long that was when it goes on.
func (p *process) clock() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused != nil {
		return p.pausedAt.Sub(p.w.began)
	}
	return time.Since(p.w.began)
}

// inFlight reads outboxd_in_flight_events and outboxd_in_flight_bytes.
func (p *process) inFlight() (events, bytes float64) {
	s := p.status.Load()
	if s == nil {
		return 0, 0
	}
	families, err := s.Metrics().Gather()
	if err != nil {
		return -1, -1
	}
	for _, f := range families {
		switch f.GetName() {
		case "outboxd_in_flight_events":
			events = f.GetMetric()[0].GetGauge().GetValue()
		case "outboxd_in_flight_bytes":
			bytes = f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return events, bytes
}

// askStop sends the process SIGTERM, and a second one at once if it is to hurry.
func (p *process) askStop(hurry bool, back time.Duration) {
	p.stopping, p.comesBack, p.backIn = true, back > 0, back
	if p.calm = -1; !hurry && p.w.calm() {
		p.calm = p.w.faults
	}
	p.w.note("%s: asked to stop (hurry %t)", p.name, hurry)
	p.stop()
	if hurry {
		p.hurry()
	}
}

var errDisk = errors.New("no space left on device")

// disk holds the position file. It survives its processes.
type disk struct {
	mu       sync.Mutex
	position []byte // nil: there is no file
	failing  bool
	hangs    chan struct{} // closed when the file system answers again
}

// fileStore is offsets.FileStore without a disk: the same rule keeps a process from
// writing over what another has stored.
type fileStore struct {
	p     *process
	d     *disk
	seen  []byte
	known bool // seen was read
}

func (f *fileStore) ready(ctx context.Context) error {
	if err := f.p.gate(); err != nil {
		return err
	}
	d := f.d
	d.mu.Lock()
	failing, hangs := d.failing, d.hangs
	d.mu.Unlock()
	if failing {
		return errDisk
	}
	if hangs != nil {
		select {
		case <-hangs:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f.p.gate()
}

func (f *fileStore) Load(ctx context.Context) (*offsets.Position, error) {
	if err := f.ready(ctx); err != nil {
		return nil, err
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.known = true
	if f.seen = f.d.position; f.seen == nil {
		return nil, nil
	}
	p, err := offsets.Decode(f.seen)
	return &p, err
}

func (f *fileStore) Save(ctx context.Context, p offsets.Position) error {
	at := time.Now()
	if err := f.ready(ctx); err != nil {
		return err
	}
	f.p.w.verifier.stored(p, at, f.p.name)
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.known && string(f.d.position) != string(f.seen) {
		return offsets.ErrStoreTaken
	}
	f.d.position = p.Encode()
	f.seen = f.d.position
	f.p.w.note("%s: stored %s", f.p.name, p)
	return nil
}
