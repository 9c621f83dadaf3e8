package decoder

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"strings"

	"outboxd/internal/poison"
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
	// unknown are the fields whose columns have types that neither PostgreSQL itself
	// nor the catalog of now has; see settle.
	unknown []unknownType
	// payloadShared says that the payload's column is another field as well.
	payloadShared bool
	// unfit says which mapped columns the table does not have now, or not in a
	// type that can be read. Such a table can be described at any time; it is an
	// error only for a row.
	unfit error
	// columns are those of the outbox as the stream describes them, for Decoder.Row.
	columns []RowColumn
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
	rel, found := otherTable, []bool(nil)
	if table == d.table.Name && schema == d.table.Schema {
		rel = &relation{outbox: true, types: make([]uint32, len(d.event.Values))}
		found = make([]bool, len(d.table.Columns))
	}
	for range count {
		r.skip(1)
		name := r.cstring()
		typ := r.uint32()
		modifier := r.uint32()
		if r.b == nil {
			return fmt.Errorf("%w: Relation of %s.%s ends early", ErrProtocol, Cut(schema), Cut(table))
		}
		if !rel.outbox {
			continue
		}
		typ, known := d.baseType(typ)
		rel.columns = append(rel.columns, RowColumn{Name: name, Type: typ, Modifier: int32(modifier)})
		field, shared, payload := int16(-1), false, false
		for f, column := range d.table.Columns {
			if column.Name == "" || column.Name != name {
				continue
			}
			found[f] = true
			rel.types[f] = typ
			if !known {
				rel.unknown = append(rel.unknown, unknownType{Field(f), typ, d.table.Types[name]})
			}
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
		return fmt.Errorf("%w: %d bytes after the Relation of %s.%s", ErrProtocol, len(r.b), Cut(schema), Cut(table))
	}
	if rel.outbox {
		if rel.unfit = d.missing(found); rel.unfit == nil && !rel.isUnknown(Payload) {
			rel.unfit = d.unreadable(rel.types[Payload])
		}
	}
	d.lastRel = nil
	return d.remember(id, rel)
}

// otherTable stands for every table that is not the outbox.
var otherTable = new(relation)

// How many relations are remembered: more than any database has that sends them to
// an outbox's publication.
const (
	maxOthers   = 1 << 17
	maxOutboxes = 1000 // recreated, each time under another id
)

// remember keeps a relation. Of tables that are not the outbox only the ids are kept,
// and none when there are too many: what is not known then is one of them, since all
// of the outbox's are known.
func (d *Decoder) remember(id uint32, rel *relation) error {
	switch before := d.relations[id]; {
	case before == nil:
	case before.outbox:
		d.outboxes--
	}
	if rel.outbox {
		if d.outboxes++; d.outboxes > maxOutboxes {
			return fmt.Errorf("%w: more than %d Relations of table %s.%s with different ids", ErrProtocol, maxOutboxes, d.table.Schema, d.table.Name)
		}
	} else if len(d.relations)-d.outboxes > maxOthers {
		maps.DeleteFunc(d.relations, func(_ uint32, r *relation) bool { return !r.outbox })
		d.forgotten = true
	}
	d.relations[id] = rel
	return nil
}

func (d *Decoder) missing(found []bool) error {
	var names []string
	for f, column := range d.table.Columns {
		if column.Name != "" && !found[f] {
			names = append(names, fmt.Sprintf("%q (%s)", column.Name, column.Key))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return poison.ColumnMissing.Mark(fmt.Errorf("%w: table %s.%s no longer has column %s", ErrRow, d.table.Schema, d.table.Name, strings.Join(names, ", ")))
}

// unreadable refuses a payload of one of PostgreSQL's own types that none can be.
func (d *Decoder) unreadable(payload uint32) error {
	switch payload {
	case 0, JSONOID, JSONBOID, TextOID, VarcharOID, ByteaOID:
		return nil
	}
	column := d.table.Columns[Payload]
	return fmt.Errorf("%w: column %q (%s) of table %s.%s is of type %d (OID), and not json, jsonb, text, varchar or bytea",
		ErrRow, column.Name, column.Key, d.table.Schema, d.table.Name, payload)
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
