// Package avro is the format avro: values in the wire format of a schema registry that
// speaks Confluent's API, the event's envelope or its payload by a registered schema.
package avro

import (
	"crypto/tls"
	_ "embed"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/poison"
	"outboxd/internal/record"
	"outboxd/internal/template"
)

// Options configure an encoder. See value.avro in the configuration.
type Options struct {
	Registry string // its URL
	Username string // "": no basic authentication
	Password string
	// ReadToken, if set, is asked for a bearer token for each request, in place of
	// Username and Password.
	ReadToken func() (string, error)
	TLS       *tls.Config // nil: the default for https URLs
	// ReadPassword and ReadTLS, if set, are asked in place of Password, for each
	// request, and of TLS, for each connection: both may have been replaced.
	ReadPassword func() (string, error)
	ReadTLS      func() (*tls.Config, error)
	// Subject is the subject's name, with {topic}, {type} and {aggregate_type}
	// replaced by the event's.
	Subject string
	// BySchema encodes the payload by the subject's newest schema; otherwise the
	// envelope carries it.
	BySchema bool
	// Register adds the envelope's schema to a subject that lacks it.
	Register bool
	Log      zerolog.Logger
	// OnAnswer, if set, is called whenever the registry has given what was asked
	// for.
	OnAnswer func()
}

// Format encodes values in the registry's wire format: a zero byte, the schema's id
// in four bytes, and the Avro body. It belongs to the goroutine that sends, and
// outlives a sink that failed, so that subjects are not looked up again.
//
// A subject is looked up at its first event, on the goroutine that reads the
// replication stream: one question a subject, and it does not wait long.
type Format struct {
	o        Options
	registry *registry
	subject  []subjectPart
	name     []byte // of the subject at hand, used again
	subjects map[string]*subject
	json     jsonEncoder
	now      func() time.Time
	// refreshAfter is when schemas that are known may be asked for again: a
	// registry that hangs must not hold up the reader subject by subject.
	refreshAfter time.Time
}

// subject is what is known of a subject.
type subject struct {
	name    string
	header  [5]byte // of the wire format
	version int
	typ     *avroType // of its newest schema; nil with the envelope's
	// refreshAt is when the newest schema is asked for again.
	refreshAt time.Time
	// askedAt is when it was asked for last.
	askedAt time.Time
}

// With payloads by schema, the subject's newest schema is asked for again after
// refreshAfter (no subject's within retryRefresh of one that failed), and at once, but not more
// often than misfitPause, for a payload that does not fit.
const (
	refreshAfter = 5 * time.Minute
	retryRefresh = time.Minute
	misfitPause  = time.Second
)

// NewAvro makes an encoder. It does not connect.
func New(o Options) (*Format, error) {
	r, err := newRegistry(o)
	if err != nil {
		return nil, err
	}
	parts, err := splitSubject(o.Subject)
	if err != nil {
		return nil, err
	}
	return &Format{o: o, registry: r, subject: parts, subjects: make(map[string]*subject), now: time.Now}, nil
}

// Value returns the event's value.
func (a *Format) Value(ev *format.Event, r *record.Record) (_ []byte, err error) {
	if ev.Tombstone {
		return nil, nil
	}
	r.Buffer, err = a.append(format.Sized(r.Buffer, ev), ev, r.Topic)
	return r.Buffer, err
}

// append appends the event's value.
func (a *Format) append(b []byte, ev *format.Event, topic string) ([]byte, error) {
	s, err := a.subjectOf(ev, topic)
	if err != nil {
		return b, err
	}
	if !a.o.BySchema {
		return appendEnvelope(append(b, s.header[:]...), ev)
	}
	payload, err := format.JSONPayload(ev.Event)
	if err != nil {
		return b, err
	}
	encoded, err := a.json.append(append(b, s.header[:]...), s.typ, payload)
	if err == nil || a.now().Sub(s.askedAt) < misfitPause {
		return encoded, a.misfit(s, err)
	}
	// The schema may have been changed for this payload.
	version := s.version
	if err := a.look(s, ev.Outbox); err != nil {
		return b, err
	}
	if s.version == version {
		return encoded, a.misfit(s, err)
	}
	encoded, err = a.json.append(append(b, s.header[:]...), s.typ, payload)
	return encoded, a.misfit(s, err)
}

// misfit says by which schema a payload was measured.
func (a *Format) misfit(s *subject, err error) error {
	if err == nil {
		return nil
	}
	return poison.Schema.Mark(fmt.Errorf("its payload does not fit version %d of the schema of subject %s: %w", s.version, decoder.Excerpt(s.name), err))
}

// subjectOf returns the event's subject, looking it up when that is due.
func (a *Format) subjectOf(ev *format.Event, topic string) (*subject, error) {
	a.name = a.name[:0]
	for _, p := range a.subject {
		switch {
		case p.field == decoder.NoField:
			a.name = append(a.name, p.literal...)
		case p.field == topicPart:
			a.name = append(a.name, topic...)
		case ev.Values[p.field] == nil:
			return nil, poison.MissingField.Mark(fmt.Errorf("its %s is NULL, and value.avro.subject needs it", p.field))
		default:
			a.name = append(a.name, ev.Values[p.field]...)
		}
	}
	s := a.subjects[string(a.name)]
	switch {
	case s == nil:
		s = &subject{name: string(a.name)}
		if err := a.look(s, ev.Outbox); err != nil {
			return nil, err
		}
		a.subjects[s.name] = s
	case a.o.BySchema && a.now().After(s.refreshAt) && a.now().After(a.refreshAfter):
		if err := a.look(s, ev.Outbox); err != nil {
			// What was right until now is used on.
			a.refreshAfter = a.now().Add(retryRefresh)
			a.o.Log.Warn().Err(err).Str("subject", decoder.Cut(s.name)).Int("version", s.version).Msg("the subject's newest schema is not known; using the last one")
		}
	}
	return s, nil
}

// look asks the registry for what the subject needs.
func (a *Format) look(s *subject, outbox *format.Outbox) (err error) {
	var id int
	waited := outbox.Wait(func() {
		if a.o.BySchema {
			id, err = a.registry.newest(s)
		} else {
			id, err = a.registry.envelope(s.name, a.o.Register)
		}
	})
	if waited != nil {
		return waited
	}
	if err != nil {
		if registry, ok := err.(*format.RegistryError); ok && registry.Public != nil {
			registry.Public = fmt.Errorf("subject %s: %w", decoder.Excerpt(s.name), registry.Public)
		}
		return fmt.Errorf("subject %s: %w", decoder.Excerpt(s.name), err)
	}
	binary.BigEndian.PutUint32(s.header[1:], uint32(id))
	s.askedAt = a.now()
	s.refreshAt = s.askedAt.Add(refreshAfter)
	if a.o.OnAnswer != nil {
		a.o.OnAnswer()
	}
	return nil
}

// subjectPart is a piece of the subject's template.
type subjectPart struct {
	literal string // when field is NoField
	field   decoder.Field
}

// topicPart stands for the record's topic where a field is expected.
const topicPart decoder.Field = -2

func splitSubject(text string) (parts []subjectPart, err error) {
	t, err := template.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("value.avro.subject %w", err)
	}
	for _, p := range t {
		switch {
		case !p.Placeholder:
			parts = append(parts, subjectPart{p.Text, decoder.NoField})
		case p.Text == "topic":
			parts = append(parts, subjectPart{"", topicPart})
		case p.Text == "type":
			parts = append(parts, subjectPart{"", decoder.Type})
		case p.Text == "aggregate_type":
			parts = append(parts, subjectPart{"", decoder.AggregateType})
		default:
			return nil, fmt.Errorf("value.avro.subject: unknown placeholder {%s}", p.Text)
		}
	}
	return parts, nil
}
