package decoder

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// messages is what is needed to read the messages of pg_logical_emit_message.
type messages struct {
	prefix string
	// members says which fields a member of the content is, by its name.
	members map[string][]member
	// types are those of the last message: a JSON value brings its own.
	types []uint32
	// found holds the rank of the member that each field was taken from.
	found []rank
}

type member struct {
	field Field
	rank  rank
}

// rank orders the names that a field's member may have.
type rank uint8

const (
	absent      rank = iota
	fieldNamed       // like the field
	columnNamed      // like the column that is mapped to it
)

func newMessages(table Table) *messages {
	m := &messages{
		prefix:  table.MessagePrefix,
		members: make(map[string][]member),
		types:   make([]uint32, max(NumFields, len(table.Columns))),
		found:   make([]rank, max(NumFields, len(table.Columns))),
	}
	for i, column := range table.Columns {
		f := Field(i)
		if column.Name == "" {
			continue
		}
		m.members[column.Name] = append(m.members[column.Name], member{f, columnNamed})
		if i < NumFields && column.Name != f.String() {
			m.members[f.String()] = append(m.members[f.String()], member{f, fieldNamed})
		}
	}
	return m
}

// message: Int8 flags, Int64 LSN, String prefix, Int32 length, the content.
func (d *Decoder) message(b []byte) (Kind, error) {
	m := d.messages
	if m == nil {
		return Skipped, nil
	}
	const head = 1 + 8
	end := -1
	if len(b) > head {
		end = bytes.IndexByte(b[head:], 0)
	}
	if end < 0 {
		return Skipped, fmt.Errorf("%w: Message ends early", ErrProtocol)
	}
	if string(b[head:head+end]) != m.prefix {
		return Skipped, nil
	}
	transactional := b[0]&1 != 0
	content := b[head+end+1:]
	if len(content) < 4 || uint64(binary.BigEndian.Uint32(content)) != uint64(len(content)-4) {
		return Skipped, fmt.Errorf("%w: Message whose content does not have its length", ErrProtocol)
	}
	content = content[4:]
	if !transactional {
		return NonTransactional, nil
	}
	if !d.inTransaction {
		return Skipped, fmt.Errorf("%w: transactional Message outside a transaction", ErrProtocol)
	}
	d.number++
	ev := &d.event
	ev.Position = Position{CommitLSN: d.commitLSN, Number: d.number}
	clear(ev.Values)
	ev.Types = m.types
	if err := m.read(content, ev); err != nil {
		return Insert, fmt.Errorf("%w: message with prefix %q: %w", ErrRow, m.prefix, err)
	}
	return Insert, nil
}

// read takes the event's fields from the members of a JSON object. Values are
// views of the content, but for texts with escapes.
func (m *messages) read(content []byte, ev *Event) error {
	clear(m.types)
	clear(m.found)
	switch {
	case !utf8.Valid(content):
		// The server converts rows to the client's encoding, and messages not.
		return fmt.Errorf("its content is not UTF-8")
	case !json.Valid(content):
		// This bounds the depth, too.
		return fmt.Errorf("its content is not JSON: %s", Excerpt(content))
	}
	s := scanner{b: content}
	if s.next() != '{' {
		return fmt.Errorf("its content is not a JSON object: %s", Excerpt(content))
	}
	for s.i++; s.next() != '}'; {
		name, _ := JSONText(s.value()) // one that is no text is no column's
		s.next()
		s.i++ // the colon
		s.next()
		value := s.value()
		for _, member := range m.members[string(name)] {
			if f := member.field; member.rank >= m.found[f] {
				m.found[f] = member.rank
				var err error
				if ev.Values[f], m.types[f], err = field(f, value); err != nil {
					return fmt.Errorf("its member %s %w", Excerpt(name), err)
				}
			}
		}
		if s.next() == ',' {
			s.i++
		}
	}
	if v := ev.Values[Version]; v != nil && m.types[Version] != Int8OID {
		n, err := strconv.ParseInt(string(v), 10, 64)
		if err != nil {
			return fmt.Errorf("its version is %s, not an integer", Excerpt(v))
		}
		ev.Values[Version], m.types[Version] = strconv.AppendInt(nil, n, 10), Int8OID
	}
	if v := ev.Values[Timestamp]; v != nil {
		var err error
		ev.Time, err = messageTime(v, m.types[Timestamp])
		return err
	}
	return nil
}

// field returns the text and the type of a member's value.
func field(f Field, value []byte) ([]byte, uint32, error) {
	switch {
	case value[0] == 'n': // null
		return nil, 0, nil
	case f == Payload:
		return value, JSONOID, nil
	case value[0] == '"':
		text, err := JSONText(value)
		return text, TextOID, err
	case value[0] == '{', value[0] == '[':
		return value, JSONOID, nil
	case isInt64(value):
		return value, Int8OID, nil
	}
	return value, TextOID, nil
}

func isInt64(number []byte) bool {
	_, err := strconv.ParseInt(string(number), 10, 64)
	return err == nil
}

// messageTime reads a business time: milliseconds since 1970, RFC 3339, or what
// PostgreSQL prints.
func messageTime(b []byte, typ uint32) (time.Time, error) {
	if typ != TextOID {
		return parseTime(b, typ)
	}
	if t, err := time.Parse(time.RFC3339, string(b)); err == nil {
		return checkTime(b, t.UTC(), true)
	}
	return parseTime(b, TimestampTZOID)
}

// scanner walks through JSON that is known to be valid.
type scanner struct {
	b []byte
	i int
}

// next passes over white space, and returns the byte that follows.
func (s *scanner) next() byte {
	for s.b[s.i] == ' ' || s.b[s.i] == '\n' || s.b[s.i] == '\t' || s.b[s.i] == '\r' {
		s.i++
	}
	return s.b[s.i]
}

// value passes over the value that begins here, and returns it.
func (s *scanner) value() []byte {
	start, depth := s.i, 0
	for {
		switch s.b[s.i] {
		case '"':
			s.text()
		case '{', '[':
			depth++
			s.i++
		case '}', ']':
			depth--
			s.i++
		case ',', ':', ' ', '\n', '\t', '\r':
			s.i++
		default:
			s.word()
		}
		if depth == 0 {
			return s.b[start:s.i:s.i]
		}
	}
}

// text passes over a string.
func (s *scanner) text() {
	for s.i++; s.b[s.i] != '"'; s.i++ {
		if s.b[s.i] == '\\' {
			s.i++
		}
	}
	s.i++
}

// word passes over a number, true, false or null.
func (s *scanner) word() {
	for ; s.i < len(s.b); s.i++ {
		switch s.b[s.i] {
		case ',', ':', '}', ']', ' ', '\n', '\t', '\r':
			return
		}
	}
}
