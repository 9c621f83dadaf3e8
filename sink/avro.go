package sink

import (
	"crypto/tls"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hamba/avro/v2"
	"github.com/rs/zerolog"

	"outboxd/decoder"
)

// ErrSchemaRefused means that a subject and what is to be written do not fit
// each other: the registry refuses the envelope's schema, or what it holds
// cannot be used. It concerns every event of the subject, and an operator has
// to look.
var ErrSchemaRefused = errors.New("the schema does not fit its subject")

// RegistryError says that the schema registry did not give what an event needs.
// It may pass.
type RegistryError struct{ Err error }

func (e *RegistryError) Error() string { return e.Err.Error() }
func (e *RegistryError) Unwrap() error { return e.Err }

// AvroOptions configure an encoder. See value.avro in the configuration.
type AvroOptions struct {
	Registry string // its URL
	Username string // "": no authentication
	Password string
	TLS      *tls.Config // nil: the default for https URLs
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

// Avro encodes values in the registry's wire format: a zero byte, the schema's id
// in four bytes, and the Avro body. It belongs to the goroutine that sends, and
// outlives a sink that failed, so that subjects are not looked up again.
//
// A subject is looked up at its first event, on the goroutine that reads the
// replication stream: one question a subject, and it does not wait long.
type Avro struct {
	o        AvroOptions
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
func NewAvro(o AvroOptions) (*Avro, error) {
	r, err := newRegistry(o)
	if err != nil {
		return nil, err
	}
	parts, err := splitSubject(o.Subject)
	if err != nil {
		return nil, err
	}
	return &Avro{o: o, registry: r, subject: parts, subjects: make(map[string]*subject), now: time.Now}, nil
}

// append appends the event's value.
func (a *Avro) append(b []byte, ev *decoder.Event, topic string) ([]byte, error) {
	s, err := a.subjectOf(ev, topic)
	if err != nil {
		return b, err
	}
	if !a.o.BySchema {
		return appendAvroEnvelope(append(b, s.header[:]...), ev)
	}
	payload, err := jsonPayload(ev)
	if err != nil {
		return b, err
	}
	encoded, err := a.json.append(append(b, s.header[:]...), s.typ, payload)
	if err == nil || a.now().Sub(s.askedAt) < misfitPause {
		return encoded, a.misfit(s, err)
	}
	// The schema may have been changed for this payload.
	version := s.version
	if err := a.look(s); err != nil {
		return b, err
	}
	if s.version == version {
		return encoded, a.misfit(s, err)
	}
	encoded, err = a.json.append(append(b, s.header[:]...), s.typ, payload)
	return encoded, a.misfit(s, err)
}

// misfit says by which schema a payload was measured.
func (a *Avro) misfit(s *subject, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("its payload does not fit version %d of the schema of subject %q: %w", s.version, s.name, err)
}

// subjectOf returns the event's subject, looking it up when that is due.
func (a *Avro) subjectOf(ev *decoder.Event, topic string) (*subject, error) {
	a.name = a.name[:0]
	for _, p := range a.subject {
		switch {
		case p.field == decoder.NoField:
			a.name = append(a.name, p.literal...)
		case p.field == topicPart:
			a.name = append(a.name, topic...)
		case ev.Values[p.field] == nil:
			return nil, fmt.Errorf("its %s is NULL, and value.avro.subject needs it", p.field)
		default:
			a.name = append(a.name, ev.Values[p.field]...)
		}
	}
	s := a.subjects[string(a.name)]
	switch {
	case s == nil:
		s = &subject{name: string(a.name)}
		if err := a.look(s); err != nil {
			return nil, err
		}
		a.subjects[s.name] = s
	case a.o.BySchema && a.now().After(s.refreshAt) && a.now().After(a.refreshAfter):
		if err := a.look(s); err != nil {
			// What was right until now is used on.
			a.refreshAfter = a.now().Add(retryRefresh)
			a.o.Log.Warn().Err(err).Str("subject", s.name).Int("version", s.version).Msg("the subject's newest schema is not known; using the last one")
		}
	}
	return s, nil
}

// look asks the registry for what the subject needs.
func (a *Avro) look(s *subject) (err error) {
	var id int
	if a.o.BySchema {
		id, err = a.registry.newest(s)
	} else {
		id, err = a.registry.envelope(s.name, a.o.Register)
	}
	if err != nil {
		return fmt.Errorf("subject %q: %w", s.name, err)
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

func splitSubject(template string) (parts []subjectPart, err error) {
	for rest := template; rest != ""; {
		literal, after, found := strings.Cut(rest, "{")
		if literal != "" {
			parts = append(parts, subjectPart{literal, decoder.NoField})
		}
		if !found {
			break
		}
		name, after, _ := strings.Cut(after, "}")
		rest = after
		switch name {
		case "topic":
			parts = append(parts, subjectPart{"", topicPart})
		case "type":
			parts = append(parts, subjectPart{"", decoder.Type})
		case "aggregate_type":
			parts = append(parts, subjectPart{"", decoder.AggregateType})
		default:
			return nil, fmt.Errorf("value.avro.subject: unknown placeholder {%s}", name)
		}
	}
	return parts, nil
}

// envelopeText is the Avro schema of the envelope, as it is registered.
//
//go:embed envelope.avsc
var envelopeText string

// envelopeSchema is the same, parsed.
var envelopeSchema = avro.MustParse(envelopeText)

// appendAvroEnvelope appends the event by envelopeSchema, field by field: what a
// schema's interpreter would have to look up is known here.
func appendAvroEnvelope(b []byte, ev *decoder.Event) ([]byte, error) {
	e := envelope{b: b, ev: ev}
	for f := decoder.ID; f <= decoder.AggregateID; f++ {
		e.text(f)
	}
	e.long(decoder.Version)
	e.text(decoder.SchemaVersion)
	if ev.Values[decoder.Timestamp] == nil {
		e.branch(0)
	} else {
		e.branch(1)
		e.b = appendLong(e.b, ev.Time.UnixMicro())
	}
	e.b = appendLong(e.b, ev.CommittedAt.UnixMicro())
	e.text(decoder.CorrelationID)
	e.text(decoder.CausationID)
	e.b = appendLong(e.b, decoder.PositionLen)
	e.b = ev.Position.AppendText(e.b)
	if ev.Types[decoder.Payload] == decoder.ByteaOID {
		e.branch(2)
		e.b = appendBytes(e.b, ev.Values[decoder.Payload])
	} else {
		e.text(decoder.Payload)
	}
	return e.b, e.err
}

// envelope writes an envelope's fields in Avro's binary encoding.
type envelope struct {
	b   []byte
	ev  *decoder.Event
	err error
}

// branch writes which type of a union follows.
func (e *envelope) branch(n int64) { e.b = appendLong(e.b, n) }

func (e *envelope) text(f decoder.Field) {
	v := e.ev.Values[f]
	if v == nil {
		e.branch(0)
		return
	}
	if !utf8.Valid(v) && e.err == nil {
		e.err = fmt.Errorf("%s is not UTF-8, so it cannot be an Avro string", f)
	}
	e.branch(1)
	e.b = appendBytes(e.b, v)
}

func (e *envelope) long(f decoder.Field) {
	v := e.ev.Values[f]
	if v == nil {
		e.branch(0)
		return
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil && e.err == nil {
		e.err = fmt.Errorf("%s is not an integer of 64 bits", f)
	}
	e.branch(1)
	e.b = appendLong(e.b, n)
}

// appendLong appends an int or long: a zigzag varint, which is Go's.
func appendLong(b []byte, n int64) []byte { return binary.AppendVarint(b, n) }

// appendBytes appends bytes, or a string.
func appendBytes[T []byte | string](b []byte, v T) []byte {
	return append(appendLong(b, int64(len(v))), v...)
}

// jsonPayload returns the payload when it is JSON.
func jsonPayload(ev *decoder.Event) ([]byte, error) {
	payload := ev.Values[decoder.Payload]
	switch ev.Types[decoder.Payload] {
	case decoder.JSONOID, decoder.JSONBOID:
		return payload, nil
	case decoder.ByteaOID:
		return nil, errors.New("its payload is bytea, not JSON")
	}
	// Valid also bounds the depth, which the parser does not.
	if !json.Valid(payload) {
		return nil, errors.New("its payload is not JSON")
	}
	return payload, nil
}
