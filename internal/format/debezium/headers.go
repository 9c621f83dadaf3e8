package debezium

import (
	"fmt"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/record"
)

// IDHeader is the header of Debezium's outbox event router for records of other
// formats: the id, as it is.
var IDHeader format.Headers = idHeader{}

type idHeader struct{}

func (idHeader) Append(ev *format.Event, r *record.Record) error {
	format.AddField(ev, r, "id", decoder.ID)
	return nil
}

func (idHeader) Own() []string { return []string{"id"} }
func (idHeader) Columns() bool { return true }

// headers are those of Debezium's outbox event router: the id and those from columns.
type headers struct {
	o       Options
	context []record.Header
}

// NewHeaders returns the headers of Debezium's outbox event router. A NULL gives a
// header without a value.
func NewHeaders(o Options) format.Headers {
	h := &headers{o: o}
	if o.Context != "" {
		h.context = contextHeaders(o.Context, o.Headers)
	}
	return h
}

func (h *headers) Append(ev *format.Event, r *record.Record) error {
	r.Headers = append(r.Headers, h.context...)
	if err := h.add(ev, r, "id", decoder.ID); err != nil {
		return err
	}
	for i := range h.o.Columns {
		if err := h.add(ev, r, h.o.Columns[i].Key, h.o.Columns[i].Field); err != nil {
			return err
		}
	}
	return nil
}

func (h *headers) add(ev *format.Event, r *record.Record, key string, f decoder.Field) error {
	v, err := convert(ev, f, h.o.Headers, r)
	if err != nil {
		return fmt.Errorf("its header %q: %w", key, err)
	}
	r.AddHeader(key, v)
	return nil
}

func (h *headers) Own() []string {
	own := []string{"id"}
	for _, c := range h.o.Columns {
		own = append(own, c.Key)
	}
	return own
}

// Columns says that none follow: they are among those above.
func (*headers) Columns() bool { return false }

// contextHeaders are those that Debezium adds to every record of a connector.
func contextHeaders(prefix string, by Converter) (headers []record.Header) {
	for _, h := range [][2]string{{"connectorLogicalName", prefix}, {"taskId", "0"}, {"connectorName", "postgresql"}} {
		v := []byte(h[1])
		switch by {
		case JSONSchema:
			v = append(appendString([]byte(`{"schema":{"type":"string","optional":false},"payload":`), v), '}')
		case JSON:
			v = appendString(nil, v)
		}
		headers = append(headers, record.Header{Key: "__debezium.context." + h[0], Value: v})
	}
	return headers
}
