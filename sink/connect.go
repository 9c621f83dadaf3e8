package sink

import (
	"fmt"

	"outboxd/decoder"
	"outboxd/router"
)

// Connect says how values are written that are to be, byte for byte, those of
// Debezium's outbox event router behind one of Kafka Connect's converters. See
// value.debezium in the configuration.
//
// It is used by one goroutine, since it remembers schemas.
type Connect struct {
	Converter Converter
	// Envelope are columns beside the payload, by their names in the value.
	Envelope []router.ColumnHeader
	Expand   *Expansion // nil: a JSON payload stays text
	// Attributes are those of each field's column.
	Attributes router.Attributes
	// RouteBy is the field that the envelope's schema is named after, and
	// TopicPrefix and Table what comes before and behind.
	RouteBy            decoder.Field
	TopicPrefix, Table string

	// schemas remembers an envelope's schema for each version: it is named after
	// the first event that has it, as in Debezium.
	schemas map[string][]byte
	scratch []byte
}

// Converter is one of Kafka Connect's converters.
type Converter int

const (
	StringConverter     Converter = iota
	JSONConverter                 // without schemas
	JSONSchemaConverter           // with schemas
	BytesConverter                // of a bytea payload, as it is
)

// encode returns the record's value, nil for a tombstone.
func (c *Connect) encode(ev *decoder.Event, d *Delivery, emptyIsTombstone bool) ([]byte, error) {
	payload := ev.Values[decoder.Payload]
	if emptyIsTombstone && c.isEmpty(ev) {
		return nil, nil
	}
	if len(c.Envelope) == 0 && (c.Converter == StringConverter || c.Converter == BytesConverter) {
		return payload, nil
	}
	var err error
	b := d.value[:0]
	switch c.Converter {
	case JSONSchemaConverter:
		b = append(b, `{"schema":`...)
		b = c.schema(b, ev)
		b = append(b, `,"payload":`...)
		if b, err = c.object(b, ev); err == nil {
			b = append(b, '}')
		}
	case JSONConverter:
		b, err = c.object(b, ev)
	default:
		b, err = c.text(b, ev)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUndeliverable, err)
	}
	d.value = b
	return b, nil
}

// isEmpty tells what route.tombstone.on.empty.payload means: NULL, or a text that
// Java's trim makes empty. Bytes are never empty.
func (c *Connect) isEmpty(ev *decoder.Event) bool {
	payload := ev.Values[decoder.Payload]
	if payload != nil && ev.Types[decoder.Payload] == decoder.ByteaOID {
		return false
	}
	for _, b := range payload {
		if b > ' ' {
			return false
		}
	}
	return true
}

// object appends the value as JSON: the payload, or an object with it and the
// envelope's columns.
func (c *Connect) object(b []byte, ev *decoder.Event) (_ []byte, err error) {
	if len(c.Envelope) == 0 {
		return c.payload(b, ev)
	}
	b = append(b, `{"payload":`...)
	if b, err = c.payload(b, ev); err != nil {
		return b, err
	}
	for i := range c.Envelope {
		e := &c.Envelope[i]
		b = append(b, ',')
		b = router.AppendConnectString(b, []byte(e.Key))
		b = append(b, ':')
		v := ev.Values[e.Field]
		if v == nil {
			b = append(b, "null"...)
		} else if b, err = router.AppendConnectJSON(b, v, ev.Types[e.Field], c.Attributes.Of(e.Field)); err != nil {
			return b, fmt.Errorf("its column %q (value.debezium.envelope): %w", e.Key, err)
		}
	}
	return append(b, '}'), nil
}

func (c *Connect) payload(b []byte, ev *decoder.Event) ([]byte, error) {
	v, typ := ev.Values[decoder.Payload], ev.Types[decoder.Payload]
	switch {
	case v == nil:
		return append(b, "null"...), nil
	case typ == decoder.ByteaOID:
		o := object{b: b, ev: ev}
		o.base64(v)
		return o.b, nil
	case c.Expand != nil:
		return c.Expand.append(b, v, len(c.Envelope) > 0)
	}
	return router.AppendConnectString(b, v), nil
}

// text appends the envelope as Java prints a Struct, which leaves out what is
// NULL.
func (c *Connect) text(b []byte, ev *decoder.Event) ([]byte, error) {
	b = append(b, "Struct{"...)
	separator := ""
	if v := ev.Values[decoder.Payload]; v != nil {
		b = append(b, "payload="...)
		b = append(b, v...)
		separator = ","
	}
	for i := range c.Envelope {
		e := &c.Envelope[i]
		v := ev.Values[e.Field]
		if v == nil {
			continue
		}
		c.scratch = c.scratch[:0]
		text, err := router.ConnectText(v, ev.Types[e.Field], c.Attributes.Of(e.Field), &c.scratch)
		if err != nil {
			return b, fmt.Errorf("its column %q (value.debezium.envelope): %w", e.Key, err)
		}
		b = append(b, separator...)
		b = append(b, e.Key...)
		b = append(b, '=')
		b = append(b, text...)
		separator = ","
	}
	return append(b, '}'), nil
}

// schema appends the JSON schema of the value.
func (c *Connect) schema(b []byte, ev *decoder.Event) []byte {
	if len(c.Envelope) == 0 {
		return router.AppendConnectSchema(b, ev.Types[decoder.Payload], c.Attributes.Of(decoder.Payload), "")
	}
	version := ev.Values[decoder.SchemaVersion]
	if known, ok := c.schemas[string(version)]; ok {
		return append(b, known...)
	}
	n := len(b)
	b = append(b, `{"type":"struct","fields":[`...)
	b = router.AppendConnectSchema(b, ev.Types[decoder.Payload], c.Attributes.Of(decoder.Payload), "payload")
	for _, e := range c.Envelope {
		b = append(b, ',')
		b = router.AppendConnectSchema(b, ev.Types[e.Field], c.Attributes.Of(e.Field), e.Key)
	}
	b = append(b, `],"optional":false,"name":`...)
	name := fmt.Sprintf("%s.%s.%s.Value", c.TopicPrefix, c.Table, ev.Values[c.RouteBy])
	b = router.AppendConnectString(b, []byte(name))
	if version != nil {
		b = append(b, `,"version":`...)
		b = append(b, version...)
	}
	b = append(b, '}')
	if c.schemas == nil || len(c.schemas) > maxSchemas {
		c.schemas = make(map[string][]byte)
	}
	c.schemas[string(version)] = append([]byte(nil), b[n:]...)
	return b
}

// maxSchemas bounds the memory of schemas against a version column that never
// repeats itself.
const maxSchemas = 10_000
