package decoder

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// PostgreSQL decodes old WAL with the catalog of then, and names types by their OIDs
// of then. A domain that was dropped and recreated between the writing of an event
// and its reading, or after the connection read the domains there are, is an OID that
// nobody knows. What such a column holds is what it holds now, if the value agrees.

// firstUserOID is the least OID of what is not PostgreSQL's own (FirstNormalObjectId).
const firstUserOID = 16384

// unknownType is a field whose column has a type that is not known.
type unknownType struct {
	field Field
	oid   uint32
	now   uint32 // of the column of that name now, 0 if that is not known either
}

// baseType returns the type that a column's text is of, and whether that is certain.
func (d *Decoder) baseType(typ uint32) (base uint32, known bool) {
	if base, ok := d.table.Domains[typ]; ok {
		return base, true
	}
	return typ, typ < firstUserOID
}

func (r *relation) isUnknown(f Field) bool {
	for _, u := range r.unknown {
		if u.field == f {
			return true
		}
	}
	return false
}

// settle decides what the row's columns of unknown types hold.
func (r *relation) settle(ev *Event) error {
	for _, u := range r.unknown {
		v := ev.Values[u.field]
		if v == nil {
			continue
		}
		typ, ok := u.now, true
		if u.field == Payload {
			typ, ok = payloadType(v, u.now)
		} else if typ == 0 {
			typ = u.oid // an enum, say: its text
		} else {
			ok = fits(v, typ)
		}
		if !ok {
			return fmt.Errorf("%w: the column of its %s has the type with OID %d, which does not exist (any more), and its text is not of the type that the column has now; "+
				"if the type was made since outboxd started, start it again, else the event cannot be read any more", ErrRow, u.field, u.oid)
		}
		r.types[u.field] = typ
	}
	return nil
}

// payloadType returns the type of a payload's text: the column's present one if the
// text is of it, else JSON or text, as the text itself says. What may be bytes in hex
// is not guessed at.
func payloadType(v []byte, now uint32) (typ uint32, ok bool) {
	switch now {
	case TextOID, VarcharOID:
		return now, true
	case ByteaOID:
		if isHex(v) {
			return now, true
		}
	}
	switch {
	case json.Valid(v) && now == JSONBOID:
		return JSONBOID, true
	case json.Valid(v):
		return JSONOID, true
	}
	return TextOID, !isHex(v)
}

// isHex tells bytea's hex format.
func isHex(v []byte) bool {
	digits, ok := bytes.CutPrefix(v, []byte(`\x`))
	if !ok || len(digits)%2 != 0 {
		return false
	}
	for _, c := range digits {
		if hexDigit[c] > 0xF {
			return false
		}
	}
	return true
}

// fits tells whether a text can be of a type that is written in another form than
// its text.
func fits(v []byte, typ uint32) bool {
	var err error
	switch typ {
	case BoolOID:
		return len(v) == 1 && (v[0] == 't' || v[0] == 'f')
	case Int2OID:
		_, err = strconv.ParseInt(string(v), 10, 16)
	case Int4OID:
		_, err = strconv.ParseInt(string(v), 10, 32)
	case Int8OID:
		_, err = strconv.ParseInt(string(v), 10, 64)
	case Float4OID, Float8OID:
		_, err = strconv.ParseFloat(string(v), 64)
	case JSONOID, JSONBOID:
		return json.Valid(v)
	case DateOID, TimestampOID, TimestampTZOID:
		return bytes.HasSuffix(v, []byte("infinity")) || bytes.IndexByte(v, '-') > 0
	case ByteaOID:
		return isHex(v)
	}
	return err == nil
}

// TypeOIDs are the OIDs of PostgreSQL's own types that this package knows, by their
// names in pg_type.
var TypeOIDs = map[string]uint32{
	"bool": BoolOID, "bytea": ByteaOID, "int8": Int8OID, "int2": Int2OID, "int4": Int4OID, "text": TextOID, "json": JSONOID,
	"float4": Float4OID, "float8": Float8OID, "varchar": VarcharOID, "date": DateOID, "timestamp": TimestampOID,
	"timestamptz": TimestampTZOID, "uuid": UUIDOID, "jsonb": JSONBOID,
}
