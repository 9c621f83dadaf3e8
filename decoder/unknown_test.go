package decoder

import (
	"strings"
	"testing"
)

// A domain that was dropped and recreated has an OID that no catalog has.
func TestTypesThatDoNotExistAnyMore(t *testing.T) {
	const gone = 30_000
	for _, test := range []struct {
		now     string // the payload's type
		payload string
		typ     uint32 // 0: it cannot be read
		want    string
	}{
		{"jsonb", `{"a": 1}`, JSONBOID, `{"a": 1}`},
		{"json", `{"a": 1}`, JSONOID, `{"a": 1}`},
		{"json", `no JSON`, TextOID, `no JSON`}, // it was a text then
		{"jsonb", `\x6162`, 0, ""},              // bytes, or a text
		{"text", `{"a": 1}`, TextOID, `{"a": 1}`},
		{"varchar", `\x6162`, VarcharOID, `\x6162`},
		{"bytea", `\x6162`, ByteaOID, "ab"},
		{"bytea", `{"a": 1}`, JSONOID, `{"a": 1}`},
		{"bytea", `text`, TextOID, `text`},
		{"", `{"a": 1}`, JSONOID, `{"a": 1}`},
		{"", `text`, TextOID, `text`},
		{"", `\x6162`, 0, ""},
		{"", `\x616`, TextOID, `\x616`},
		{"", strings.Repeat("[", 20e6), TextOID, strings.Repeat("[", 20e6)},
	} {
		table := Table{Schema: "public", Name: "outbox", Columns: named(map[Field]string{ID: "id", Payload: "payload"}), Types: map[string]uint32{"payload": TypeOIDs[test.now]}}
		d := decodeTable(t, table)
		d.want(Begin, beginMessage(1, pgEpoch))
		d.want(Skipped, relationMessage(1, "public", "outbox", column{"id", textOID}, column{"payload", gone}))
		// A row of another form before it leaves no trace.
		d.want(Insert, insertMessage(1, "6", nil))
		insert := insertMessage(1, "7", test.payload)
		if test.typ == 0 {
			d.wantError(ErrRow, insert, "payload", "OID 30000")
			continue
		}
		d.want(Insert, insert)
		if ev := d.Event(); ev.Types[Payload] != test.typ || string(ev.Values[Payload]) != test.want {
			t.Errorf("%s, %.20s: type %d, %.20q", test.now, test.payload, ev.Types[Payload], ev.Values[Payload])
		}
	}
}

func TestColumnsOfTypesThatDoNotExistAnyMore(t *testing.T) {
	const gone = 30_000
	for _, test := range []struct {
		now, value string
		typ        uint32 // 0: it cannot be read
	}{
		{"bool", "t", BoolOID},
		{"bool", "f", BoolOID},
		{"bool", "5", 0}, // the domain's base type is another now
		{"int4", "5", Int4OID},
		{"int4", "t", 0},
		{"int2", "70000", 0},
		{"float8", "NaN", Float8OID},
		{"float8", "x", 0},
		{"timestamptz", "infinity", TimestampTZOID},
		{"timestamptz", "2024-05-06 07:08:09+00", TimestampTZOID},
		{"date", "t", 0},
		{"jsonb", "{}", JSONBOID},
		{"jsonb", "{", 0},
		{"text", "t", TextOID},
		{"uuid", "t", UUIDOID},
		{"mood", "t", gone}, // an enum that was there when streaming began: its text
	} {
		table := Table{Schema: "public", Name: "outbox", Columns: named(map[Field]string{ID: "id", Payload: "payload", CausationID: "flag"}),
			Types: map[string]uint32{"flag": TypeOIDs[test.now]}}
		d := decodeTable(t, table)
		d.want(Begin, beginMessage(1, pgEpoch))
		d.want(Skipped, relationMessage(1, "public", "outbox", column{"id", textOID}, column{"payload", JSONBOID}, column{"flag", gone}))
		insert := insertMessage(1, "7", `{}`, test.value)
		if test.typ == 0 {
			d.wantError(ErrRow, insert, "causation_id", "OID 30000")
			continue
		}
		d.want(Insert, insert)
		if got := d.Event().Types[CausationID]; got != test.typ {
			t.Errorf("%s, %s: type %d, want %d", test.now, test.value, got, test.typ)
		}
		d.want(Insert, insertMessage(1, "8", `{}`, nil)) // NULL is of no type
	}
}
