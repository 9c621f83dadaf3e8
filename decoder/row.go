package decoder

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
)

// RowColumn is one column of an outbox row as the stream has it, mapped or not.
type RowColumn struct {
	Name string
	Type uint32 // OID, of the base type for a domain
	// Modifier is atttypmod, -1 for none.
	Modifier int32
	// Value is the text that PostgreSQL prints; nil is NULL. It may be a view of the
	// frame.
	Value []byte
}

// Row is all that the stream says of one event. For a message there are no columns
// but the message's content.
type Row struct {
	Columns []RowColumn
	Message []byte
}

// Row reads once more the frame that Decode has decoded last, of an event that is not
// to be lost although it cannot be delivered. It allocates, and is for the rare case.
func (d *Decoder) Row(msg []byte) (row Row) {
	if len(msg) == 0 {
		return row
	}
	switch msg[0] {
	case 'M':
		// The prefix, and what comes before it, were checked.
		const head = 1 + 1 + 8
		content := msg[head+bytes.IndexByte(msg[head:], 0)+1+4:]
		row.Message = content
	case 'I':
		rel := d.relations[binary.BigEndian.Uint32(msg[1:])]
		if rel == nil || !rel.outbox {
			return row
		}
		row.Columns = rowColumns(rel, msg[1+4+1+2:], &d.event)
	}
	return row
}

// rowColumns reads a tuple whose form tuple has checked.
func rowColumns(rel *relation, b []byte, ev *Event) []RowColumn {
	columns := make([]RowColumn, len(rel.columns))
	copy(columns, rel.columns)
	for i := range columns {
		kind := b[0]
		if b = b[1:]; kind == 'n' {
			continue
		}
		n := int(binary.BigEndian.Uint32(b))
		c, v := &columns[i], b[4:4+n:4+n]
		b = b[4+n:]
		c.Value = v
		field := Field(rel.fields[i])
		if field < 0 {
			continue
		}
		c.Type = rel.types[field] // which settle may have found out
		// The bytes of a bytea payload have taken the place of its digits.
		if p := ev.Values[Payload]; field == Payload && c.Type == ByteaOID && !rel.payloadShared && len(p) != n {
			c.Value = appendBytea(nil, p)
		}
	}
	return columns
}

// appendBytea appends bytes in bytea's hex format, as PostgreSQL prints them.
func appendBytea(dst, b []byte) []byte {
	return hex.AppendEncode(append(dst, `\x`...), b)
}
