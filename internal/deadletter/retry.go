package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/router"
	"outboxd/sink"
)

// ErrStillPoison is wrapped by the error of an event that still cannot be delivered.
var ErrStillPoison = errors.New("still cannot be delivered")

// RetryOptions are today's configuration.
type RetryOptions struct {
	Topic  *Topic
	Table  decoder.Table
	Rules  router.Rules
	Format format.Options
	// Sink has a transactional id where an event and the record that resolves it are
	// committed together. It is not the one of the connector, which would lose it.
	Sink sink.Options
	// Source returns the CloudEvents source of the table in a database.
	Source func(database string) string
	// DryRun goes as far as the record, and sends nothing.
	DryRun bool
	Log    zerolog.Logger
}

// Retrier publishes events of dead letters, one after the other: an event that is sent is
// acknowledged, and then resolved, before the next. It belongs to one goroutine.
type Retrier struct {
	o      RetryOptions
	router *router.Router
	format *format.Encoder
	// asIs is format for a payload that was masked when it was set aside.
	asIs *format.Encoder
	sink *sink.Kafka // nil: the last one failed, or none was needed yet
}

// attempts is how many sinks one event may need: each finds out something about its
// topic that the next one has to do otherwise.
const attempts = 20

// sayAfter is how long Kafka may take before the operator is told what it waits for.
const sayAfter = 5 * time.Second

// NewRetrier makes the stages. It does not connect.
func NewRetrier(o RetryOptions) (*Retrier, error) {
	o.Format.Retried = true
	o.Sink.Learned = sink.NewLearned()
	rt, err := router.New(o.Rules)
	if err != nil {
		return nil, err
	}
	r := &Retrier{o: o, router: rt, format: format.New(o.Format)}
	o.Format.Mask = nil
	r.asIs = format.New(o.Format)
	return r, nil
}

// Close ends the connections.
func (r *Retrier) Close() {
	if r.sink != nil {
		r.sink.Close()
		r.sink = nil
	}
}

// Retry publishes the event of a letter and resolves the letter. It returns what has
// become of it: a rule may discard the event now. An error that wraps ErrStillPoison is
// about this event alone, and it stays unresolved.
//
// At least once, the event may be repeated if the process ends, or the error comes,
// between the acknowledgement and the record that resolves it. In a transaction both are
// committed or none.
func (r *Retrier) Retry(ctx context.Context, l *Letter) (resolved string, err error) {
	ev, err := l.Rebuild(r.o.Table)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrStillPoison, err)
	}
	for range attempts {
		if resolved, err = r.once(ctx, l, ev); err == nil {
			return resolved, nil
		}
		failed := (*sink.FailedError)(nil)
		switch {
		case errors.Is(err, router.ErrUnroutable), errors.Is(err, sink.ErrUndeliverable):
			return "", fmt.Errorf("%w: %w", ErrStillPoison, err)
		case ctx.Err() != nil:
			return "", err
		case r.sink != nil && r.sink.Err() == nil, !errors.As(err, &failed):
			return "", err // not the sink's
		case errors.Is(err, sink.ErrFenced):
			return "", fmt.Errorf("%w; another retry of this connector's dead letters has begun", err)
		}
		r.Close()
		r.o.Log.Debug().Err(err).Msg("a new producer starts")
	}
	return "", err
}

// once publishes the event through one sink.
func (r *Retrier) once(ctx context.Context, l *Letter, ev *decoder.Event) (resolved string, err error) {
	if err := r.open(ctx); err != nil {
		return "", err
	}
	encoder := r.format
	if l.Event.Masked {
		encoder = r.asIs
	}
	if err := encoder.Open(format.Outbox{Source: []byte(r.o.Source(l.Event.Database)), Attributes: r.attributes(l), Await: r.sink.Await}); err != nil {
		return "", err
	}
	d := r.sink.Next()
	if err := r.router.Route(ev, &d.Record); err != nil {
		r.sink.Return()
		return "", err
	}
	if d.Topic == "" {
		r.sink.Return()
		return Discarded, r.resolve(ctx, l, Discarded)
	}
	if err := encoder.Encode(ev, &d.Record); err != nil {
		r.sink.Return()
		return "", err
	}
	if r.o.DryRun {
		r.sink.Return()
		return Retried, nil
	}
	w := make(witness)
	d.Receipt, d.Memory = w, w
	if err := r.sink.Send(d); err != nil {
		return "", err
	}
	if err := r.acknowledged(ctx, w); err != nil {
		return "", err
	}
	return Retried, r.resolve(ctx, l, Retried)
}

// open makes a sink, if there is none that works.
func (r *Retrier) open(ctx context.Context) error {
	if r.sink != nil && r.sink.Err() == nil {
		return nil
	}
	r.Close()
	k, err := sink.New(r.o.Sink)
	if err != nil {
		return err
	}
	r.sink = k
	if r.o.Sink.TransactionalID == "" || r.o.DryRun {
		return nil
	}
	if err := k.Fence(ctx); err != nil {
		return &sink.FailedError{Err: err}
	}
	return nil
}

// acknowledged waits for the acknowledgement.
func (r *Retrier) acknowledged(ctx context.Context, w witness) error {
	say := time.NewTicker(sayAfter)
	defer say.Stop()
	for {
		select {
		case <-w:
			return nil
		case <-r.sink.Failed():
			return r.sink.Err()
		case <-ctx.Done():
			return fmt.Errorf("stopped before Kafka acknowledged it, so that it may have arrived: %w", ctx.Err())
		case <-say.C:
			if err := r.sink.Diagnose(ctx); err != nil && ctx.Err() == nil {
				r.o.Log.Warn().Err(err).Msg("Kafka does not acknowledge; waiting")
			}
		}
	}
}

// resolve appends the record that resolves the letter, in a transaction the last one of
// it.
func (r *Retrier) resolve(ctx context.Context, l *Letter, resolved string) error {
	switch {
	case r.o.DryRun:
		return nil
	case r.o.Sink.TransactionalID == "":
		return r.o.Topic.Resolve(ctx, l, resolved)
	}
	r.sink.Seal()
	if err := r.sink.Flush(ctx); err != nil {
		return err
	}
	if err := r.sink.Commit(ctx, l.Resolution(r.o.Topic.o.Topic, resolved, time.Now())); err != nil {
		// Not another attempt: it may be committed.
		return fmt.Errorf("resolve the dead letter (errors.dead_letter_topic): %v; list the dead letters again to see whether it is resolved", err)
	}
	r.sink.Unseal()
	return nil
}

// attributes are what the catalog said of each field's column.
func (r *Retrier) attributes(l *Letter) []format.Attribute {
	a := make([]format.Attribute, len(r.o.Table.Columns))
	for f, column := range r.o.Table.Columns {
		a[f].Modifier = -1
		for _, c := range l.Event.Columns {
			if c.Name == column.Name {
				if a[f].NotNull = c.NotNull; c.Modifier != nil {
					a[f].Modifier = *c.Modifier
				}
			}
		}
	}
	return a
}

// witness is the receipt and the memory of one event: closed when it is acknowledged.
type witness chan struct{}

// Acknowledge implements sink.Receipt.
func (w witness) Acknowledge() { close(w) }

// Charge and Release implement sink.Memory.
func (w witness) Charge(int)  {}
func (w witness) Release(int) {}
