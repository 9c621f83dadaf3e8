package decoder

import (
	"encoding/binary"
	"testing"
)

// A row is there as PostgreSQL printed it, also what is not mapped, and also where
// decoding has taken its bytes for its own use.
func TestRow(t *testing.T) {
	columns := make([]Column, NumFields+1)
	columns[ID] = Column{Name: "id", Key: "outbox.columns.id"}
	columns[Payload] = Column{Name: "payload", Key: "outbox.columns.payload"}
	for name, shared := range map[string]bool{"alone": false, "mapped twice": true} {
		t.Run(name, func(t *testing.T) {
			table := Table{Schema: "public", Name: "outbox", Columns: columns, Domains: map[uint32]uint32{20001: TextOID}}
			table.Columns[NumFields] = Column{}
			if shared {
				table.Columns[NumFields] = Column{Name: "payload", Key: "outbox.headers.x"}
			}
			d := New(table)
			begin := append([]byte{'B'}, make([]byte, 20)...)
			relation := append(binary.BigEndian.AppendUint32([]byte{'R'}, 1), "public\x00outbox\x00d\x00\x04"...)
			insert := append(binary.BigEndian.AppendUint32([]byte{'I'}, 1), "N\x00\x04"...)
			want := []RowColumn{{"id", Int8OID, -1, []byte("7")}, {"note", TextOID, 5, nil}, {"payload", ByteaOID, -1, []byte(`\x00ffab`)}, {"kind", 20002, -1, []byte("")}}
			for i, c := range want {
				oid := c.Type
				if i == 1 {
					oid = 20001 // a domain
				}
				relation = append(append(append(relation, 0), c.Name...), 0)
				relation = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(relation, oid), uint32(c.Modifier))
				if c.Value == nil {
					insert = append(insert, 'n')
					continue
				}
				insert = append(binary.BigEndian.AppendUint32(append(insert, 't'), uint32(len(c.Value))), c.Value...)
			}
			for _, frame := range [][]byte{begin, relation, insert} {
				if _, err := d.Decode(frame); err != nil {
					t.Fatal(err)
				}
			}
			if string(d.Event().Values[Payload]) != "\x00\xff\xab" {
				t.Fatalf("payload %q", d.Event().Values[Payload])
			}
			for range 2 {
				got := d.Row(insert)
				if len(got.Columns) != len(want) || got.Message != nil {
					t.Fatalf("%+v", got)
				}
				for i, c := range got.Columns {
					w := want[i]
					if c.Name != w.Name || c.Type != w.Type || c.Modifier != w.Modifier || string(c.Value) != string(w.Value) || (c.Value == nil) != (w.Value == nil) {
						t.Errorf("column %+v, want %+v", c, w)
					}
				}
			}
			if string(d.Event().Values[Payload]) != "\x00\xff\xab" {
				t.Error("looking at the row has changed the event")
			}
		})
	}
}
