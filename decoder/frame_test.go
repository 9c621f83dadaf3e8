package decoder

import (
	"reflect"
	"testing"
)

// What is written of a row is read as what it was, and is as long as was said.
func TestFramesAreReadAgain(t *testing.T) {
	columns := []RowColumn{
		{Name: "id", Type: TextOID, Modifier: -1, Value: []byte("1")},
		{Name: "", Type: JSONBOID, Modifier: 12, Value: nil},
		{Name: "payload", Type: ByteaOID, Modifier: -1, Value: []byte{}},
	}
	table := Table{Schema: "a schema", Name: "outbox", Columns: make([]Column, NumFields)}
	table.Columns[ID].Name, table.Columns[Payload].Name = "id", "payload"
	columns[1].Name = "other"
	d := New(table)
	values := [][]byte{columns[0].Value, columns[1].Value, []byte(`\x00ff`)}
	columns[2].Value = values[2]
	if _, err := d.Decode(append([]byte{'B'}, make([]byte, 20)...)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Decode(AppendRelation(nil, table.Schema, table.Name, columns)); err != nil {
		t.Fatal(err)
	}
	prefix := []byte("before")
	frame := AppendInsert(prefix, values)[len(prefix):]
	if len(frame) != InsertLen(values) {
		t.Errorf("an insert of %d bytes is said to have %d", len(frame), InsertLen(values))
	}
	if kind, err := d.Decode(frame); kind != Insert || err != nil {
		t.Fatalf("%v, %v", kind, err)
	}
	if got := d.Row(frame).Columns; !reflect.DeepEqual(got, columns) {
		t.Errorf("%+v, want %+v", got, columns)
	}
	if got := d.Event().Values[Payload]; string(got) != "\x00\xff" {
		t.Errorf("payload %q", got)
	}
}
