package decoder

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// Type OIDs from PostgreSQL's pg_type.dat.
const byteaOID = 17

// relation is what an insert needs to know about a table, worked out once when
// the stream describes it.
type relation struct {
	outbox bool
	// fields says for each column which field it is, -1 for none.
	fields []int8
	// copies are the further fields of columns that are mapped more than once.
	copies      []fieldCopy
	payloadType uint32
	// payloadShared says that the payload's column is another field as well.
	payloadShared bool
	// missing says which mapped columns the table does not have now. Such a
	// table can be described at any time; it is an error only for a row.
	missing string
}

type fieldCopy struct{ to, from Field }

// relation: Int32 id, String schema, String table, Int8 replica identity, Int16
// columns, then for each Int8 flags, String name, Int32 type, Int32 modifier.
// It comes before the first use of a table, and again after each change of it.
func (d *Decoder) relation(b []byte) error {
	r := reader{b}
	id := r.uint32()
	schema, table := r.cstring(), r.cstring()
	r.skip(1)
	count := int(r.uint16())
	if r.b == nil {
		return fmt.Errorf("%w: Relation ends early", ErrProtocol)
	}
	rel := &relation{outbox: table == d.table.Name && schema == d.table.Schema}
	if rel.outbox {
		rel.fields = make([]int8, 0, count)
	}
	var found [NumFields]bool
	for range count {
		r.skip(1)
		name := r.cstring()
		typ := r.uint32()
		r.skip(4)
		if r.b == nil {
			return fmt.Errorf("%w: Relation of %s.%s ends early", ErrProtocol, schema, table)
		}
		if !rel.outbox {
			continue
		}
		field := int8(-1)
		for f, column := range d.table.Columns {
			if column == "" || column != name {
				continue
			}
			found[f] = true
			if Field(f) == Payload {
				rel.payloadType = typ
			}
			if field < 0 {
				field = int8(f)
			} else {
				rel.copies = append(rel.copies, fieldCopy{to: Field(f), from: Field(field)})
				rel.payloadShared = rel.payloadShared || Field(f) == Payload // it is the last field, so never the first of two
			}
		}
		rel.fields = append(rel.fields, field)
	}
	if len(r.b) != 0 {
		return fmt.Errorf("%w: %d bytes after the Relation of %s.%s", ErrProtocol, len(r.b), schema, table)
	}
	if rel.outbox {
		rel.missing = d.missing(found)
	}
	d.relations[id] = rel
	d.lastRel = nil
	return nil
}

func (d *Decoder) missing(found [NumFields]bool) string {
	var names []string
	for f, column := range d.table.Columns {
		if column != "" && !found[f] {
			names = append(names, fmt.Sprintf("%q (outbox.columns.%s)", column, Field(f)))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("table %s.%s no longer has column %s", d.table.Schema, d.table.Name, strings.Join(names, ", "))
}

// reader takes fields off a message. Once something is missing it returns zeros
// and its b is nil.
type reader struct{ b []byte }

func (r *reader) skip(n int) []byte {
	if r.b == nil || len(r.b) < n {
		r.b = nil
		return nil
	}
	head := r.b[:n]
	r.b = r.b[n:]
	return head
}

func (r *reader) uint32() uint32 {
	if b := r.skip(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.skip(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) cstring() string {
	i := bytes.IndexByte(r.b, 0)
	if i < 0 {
		r.b = nil
		return ""
	}
	return string(r.skip(i + 1)[:i])
}
