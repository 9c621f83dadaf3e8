package decoder

import "encoding/binary"

// Rows that do not come from a stream become events in the same way as those that do:
// somebody writes the messages that pgoutput would send of them, and Decode reads these.
// https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html

// frameRelation is the table's OID in such messages.
const frameRelation = 1

// AppendRelation appends a Relation message: the table and its columns, without values.
func AppendRelation(dst []byte, schema, table string, columns []RowColumn) []byte {
	// Int32 OID, String schema, String table, Int8 replica identity, Int16 columns, then
	// for each Int8 flags, String name, Int32 type, Int32 modifier.
	b := binary.BigEndian.AppendUint32(append(dst, 'R'), frameRelation)
	b = append(append(append(append(b, schema...), 0), table...), 0, 'd')
	b = binary.BigEndian.AppendUint16(b, uint16(len(columns)))
	for _, c := range columns {
		b = append(append(append(b, 0), c.Name...), 0)
		b = binary.BigEndian.AppendUint32(b, c.Type)
		b = binary.BigEndian.AppendUint32(b, uint32(c.Modifier))
	}
	return b
}

// InsertLen returns the length of an Insert message.
func InsertLen(values [][]byte) int {
	n := 1 + 4 + 1 + 2
	for _, v := range values {
		n++
		if v != nil {
			n += 4 + len(v)
		}
	}
	return n
}

// AppendInsert appends an Insert message: the texts of a row's columns in the order of
// AppendRelation; nil is NULL.
func AppendInsert(dst []byte, values [][]byte) []byte {
	// Int32 relation, 'N', Int16 columns, then for each 'n', or 't', Int32 length and the
	// bytes.
	b := binary.BigEndian.AppendUint32(append(dst, 'I'), frameRelation)
	b = binary.BigEndian.AppendUint16(append(b, 'N'), uint16(len(values)))
	for _, v := range values {
		if v == nil {
			b = append(b, 'n')
			continue
		}
		b = append(binary.BigEndian.AppendUint32(append(b, 't'), uint32(len(v))), v...)
	}
	return b
}
