package decoder

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// relation is what an insert needs to know about a table, worked out once when
// the stream describes it.
type relation struct {
	outbox bool
	// fields says for each column which field it is, -1 for none.
	fields []int16
	// copies are the further fields of columns that are mapped more than once.
	copies []fieldCopy
	types  []uint32 // of each field, see Event.Types
	// payloadShared says that the payload's column is another field as well.
	payloadShared bool
	// unfit says which mapped columns the table does not have now, or not in a
	// type that can be read. Such a table can be described at any time; it is an
	// error only for a row.
	unfit string
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
		rel.fields = make([]int16, 0, count)
		rel.types = make([]uint32, len(d.event.Values))
	}
	found := make([]bool, len(d.table.Columns))
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
		if base, ok := d.table.Domains[typ]; ok {
			typ = base
		}
		field, shared, payload := int16(-1), false, false
		for f, column := range d.table.Columns {
			if column.Name == "" || column.Name != name {
				continue
			}
			found[f] = true
			rel.types[f] = typ
			payload = payload || Field(f) == Payload
			if field < 0 {
				field = int16(f)
			} else {
				rel.copies = append(rel.copies, fieldCopy{to: Field(f), from: Field(field)})
				shared = true
			}
		}
		rel.payloadShared = rel.payloadShared || payload && shared
		rel.fields = append(rel.fields, field)
	}
	if len(r.b) != 0 {
		return fmt.Errorf("%w: %d bytes after the Relation of %s.%s", ErrProtocol, len(r.b), schema, table)
	}
	if rel.outbox {
		if rel.unfit = d.missing(found); rel.unfit == "" {
			rel.unfit = d.unreadable(rel.types[Payload])
		}
	}
	d.relations[id] = rel
	d.lastRel = nil
	return nil
}

func (d *Decoder) missing(found []bool) string {
	var names []string
	for f, column := range d.table.Columns {
		if column.Name != "" && !found[f] {
			names = append(names, fmt.Sprintf("%q (%s)", column.Name, column.Key))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("table %s.%s no longer has column %s", d.table.Schema, d.table.Name, strings.Join(names, ", "))
}

// unreadable refuses a payload of a type that was not there when streaming began.
// Taken for text, a new domain over jsonb would be quoted, one over bytea be sent
// in hex; the next start knows the domain.
func (d *Decoder) unreadable(payload uint32) string {
	switch payload {
	case 0, JSONOID, JSONBOID, TextOID, VarcharOID, ByteaOID:
		return ""
	}
	column := d.table.Columns[Payload]
	return fmt.Sprintf("column %q (%s) of table %s.%s is now of type %d, which is not known to be json, jsonb, text, varchar or bytea",
		column.Name, column.Key, d.table.Schema, d.table.Name, payload)
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
