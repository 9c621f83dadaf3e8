package deadletter

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"sort"
	"strconv"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/record"
)

// The headers of a dead letter. Those of the event itself come behind them.
const (
	headerKind      = "error.kind"
	headerMessage   = "error.message"
	headerPosition  = "error.position"
	headerTopic     = "error.topic"
	headerTime      = "error.time"
	headerEvent     = "error.event"     // see Event
	headerTruncated = "error.truncated" // what was cut, as JSON: the bytes that it had
	headerResolved  = "error.resolved"  // of the record that resolves a dead letter
)

// Bounds of what a dead letter says beside the row.
const (
	maxReason = 4 << 10
	maxTopic  = 1 << 10
	// keptHeader is up to how many bytes a header or key stays in a letter that is too
	// large: all of them are made of the row.
	keptHeader = 1 << 10
)

// Form says how dead letters are written.
type Form struct {
	Topic string
	// Connect adds the headers that Kafka Connect's tools read.
	Connect bool
	// Limit is how many bytes a record may take, uncompressed.
	Limit int
}

// Encode returns the record of the letter. One that would take more than the limit is
// cut until it fits: first the event's own headers and a long key, which are made of the
// row, then the longest columns. What was cut is named in Truncated and in the record.
func (l *Letter) Encode(f Form) *kgo.Record {
	texts := make([][]byte, len(l.Values))
	for i, v := range l.Values {
		if texts[i] = v; l.Event.Columns[i].Hex {
			texts[i] = hex.AppendEncode([]byte(`\x`), v)
		}
	}
	l.Truncated = Truncated{}
	r := &kgo.Record{Topic: f.Topic, Key: l.Key, Timestamp: l.Time}
	l.headers(r, f, l.Headers)
	if over := size(r) + l.valueSize(texts) - f.Limit; over > 0 {
		l.shorten(r, f, texts)
	}
	r.Value = l.value(texts)
	return r
}

// shorten cuts what does not fit.
func (l *Letter) shorten(r *kgo.Record, f Form, texts [][]byte) {
	l.Truncated = Truncated{Columns: make(map[string]int), Headers: make(map[string]int)}
	kept := make([]kgo.RecordHeader, 0, len(l.Headers))
	for _, h := range l.Headers {
		if len(h.Key)+len(h.Value) > keptHeader {
			l.Truncated.Headers[cut(h.Key)] = len(h.Value)
			continue
		}
		kept = append(kept, h)
	}
	if len(r.Key) > keptHeader {
		l.Truncated.Key = len(r.Key)
		r.Key = nil
	}
	// Each column that is cut takes a place in the header that says so.
	place := 32
	for i := range texts {
		place += len(strconv.Quote(l.Event.Columns[i].Name)) + 24
	}
	r.Headers = nil
	l.headers(r, f, kept)
	room := f.Limit - size(r) - place
	for i := range texts {
		room -= len(strconv.Quote(l.Event.Columns[i].Name)) + len(`:null,`) + 2
	}
	lengths := make([]int, len(texts))
	for i, text := range texts {
		lengths[i] = escapedLen(text)
	}
	level := sort.Search(room+1, func(level int) bool { return filled(lengths, level+1) > room })
	for i, text := range texts {
		if lengths[i] > level {
			l.Truncated.Columns[l.Event.Columns[i].Name] = len(text)
			texts[i] = shortened(text, level)
		}
	}
	r.Headers = nil
	l.headers(r, f, kept)
}

// filled is how many bytes texts take when none takes more than level.
func filled(lengths []int, level int) (n int) {
	for _, length := range lengths {
		n += min(length, level)
	}
	return n
}

// shortened returns the beginning of a text that takes at most level bytes in JSON. It
// is not nil.
func shortened(text []byte, level int) []byte {
	n := 0
	for at := 0; at < len(text); {
		_, width := utf8.DecodeRune(text[at:])
		if n += escapedLen(text[at : at+width]); n > level {
			return text[:at:at]
		}
		at += width
	}
	return text
}

// headers writes those of the letter, and own behind them.
func (l *Letter) headers(r *kgo.Record, f Form, own []kgo.RecordHeader) {
	add := func(key, value string) {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	reason := decoder.Cut(l.Reason)
	if len(l.Reason) <= maxReason {
		reason = l.Reason
	}
	add(headerKind, string(l.Kind))
	add(headerMessage, reason)
	add(headerPosition, l.Position.String())
	add(headerTopic, l.Topic[:min(len(l.Topic), maxTopic)])
	add(headerTime, l.Time.Format(record.TimeFormat))
	add(headerEvent, string(marshal(l.Event)))
	if l.Truncated.is() {
		add(headerTruncated, string(marshal(l.Truncated)))
	}
	if f.Connect {
		r.Headers = append(r.Headers, connectHeaders(l, reason)...)
	}
	r.Headers = append(r.Headers, own...)
}

// marshal writes what cannot fail.
func marshal(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// value writes the row as one JSON object of texts.
func (l *Letter) value(texts [][]byte) []byte {
	b := append(make([]byte, 0, l.valueSize(texts)), '{')
	for i, text := range texts {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendText(b, []byte(l.Event.Columns[i].Name)), ':')
		if text == nil {
			b = append(b, "null"...)
			continue
		}
		b = appendText(b, text)
	}
	return append(b, '}')
}

// valueSize is the most that value takes.
func (l *Letter) valueSize(texts [][]byte) int {
	n := 2
	for i, text := range texts {
		n += escapedLen([]byte(l.Event.Columns[i].Name)) + escapedLen(text) + len(`"":"",`)
		if text == nil {
			n += len("null")
		}
	}
	return n
}

// appendText appends a JSON string. The text is UTF-8.
func appendText(dst, text []byte) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	done := 0
	for i, c := range text {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, text[done:i]...)
		done = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&0xF])
		}
	}
	return append(append(dst, text[done:]...), '"')
}

// escapedLen is what a text takes between the quotes.
func escapedLen(text []byte) int {
	n := len(text)
	for _, c := range text {
		switch {
		case c == '"' || c == '\\' || c == '\n' || c == '\r' || c == '\t':
			n++
		case c < ' ':
			n += 5
		}
	}
	return n
}

func isText(v []byte) bool { return utf8.Valid(v) }

// size is the most that a record takes on the wire, uncompressed and alone in its batch.
// (KIP-98's record format, with each varint at its longest.)
func size(r *kgo.Record) int {
	const batchHeader, recordOverhead, varint = 61, 21 + 5*3, 5
	n := batchHeader + recordOverhead + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += 2*varint + len(h.Key) + len(h.Value)
	}
	return n
}

// typeName is what a type is called in a letter, typeOID the way back.
func typeName(oid uint32) string {
	for name, known := range decoder.TypeOIDs {
		if known == oid {
			return name
		}
	}
	return strconv.FormatUint(uint64(oid), 10)
}

func typeOID(name string) (uint32, error) {
	if oid, ok := decoder.TypeOIDs[name]; ok {
		return oid, nil
	}
	oid, err := strconv.ParseUint(name, 10, 32)
	return uint32(oid), err
}
