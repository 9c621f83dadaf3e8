package debezium

import (
	"testing"

	"outboxd/decoder"
	"outboxd/internal/format"
)

// What the classes of Debezium 3.7 make of these; e2e compares whole records.
func TestConnectTimesOfEveryYear(t *testing.T) {
	const micros, millis = -1, 3
	for _, test := range []struct {
		typ      uint32
		modifier int32
		text     string
		want     string
	}{
		{decoder.TimestampTZOID, -1, "infinity", "infinity"},
		{decoder.TimestampTZOID, -1, "-infinity", "-infinity"},
		{decoder.TimestampTZOID, -1, "15000-01-01 00:00:00+00", "+15000-01-01T00:00:00.000000Z"},
		{decoder.TimestampTZOID, 0, "15000-01-01 00:00:00+00", "+15000-01-01T00:00:00Z"},
		{decoder.TimestampTZOID, -1, "294276-12-31 23:59:59.999999+00", "+294276-12-31T23:59:59.999999Z"},
		{decoder.TimestampTZOID, -1, "9999-12-31 23:00:00-02", "+10000-01-01T01:00:00.000000Z"},
		{decoder.TimestampTZOID, -1, "0001-01-01 00:00:00+05:45", "0000-12-31T18:15:00.000000Z"},
		{decoder.TimestampTZOID, -1, "0001-12-31 23:00:00+00 BC", "0000-12-31T23:00:00.000000Z"},
		{decoder.TimestampTZOID, -1, "0044-03-15 00:00:00+00 BC", "-0043-03-15T00:00:00.000000Z"},
		{decoder.TimestampTZOID, -1, "4714-11-24 00:00:00+00 BC", "-4713-11-24T00:00:00.000000Z"},
		{decoder.TimestampTZOID, -1, "1900-01-01 00:00:00+05:41:16", "1899-12-31T18:18:44.000000Z"},
		{decoder.TimestampOID, micros, "infinity", "9223372036854775807"},
		{decoder.TimestampOID, micros, "-infinity", "-9223372036854775808"},
		{decoder.TimestampOID, millis, "infinity", "9223372036825200000"},
		{decoder.TimestampOID, millis, "-infinity", "-9223372036832400000"},
		{decoder.TimestampOID, micros, "15000-01-01 00:00:00", "411187104000000000"},
		{decoder.TimestampOID, millis, "15000-01-01 00:00:00", "411187104000000"},
		{decoder.TimestampOID, micros, "0044-03-15 00:00:00 BC", "-63517824000000000"},
		{decoder.TimestampOID, millis, "0044-03-15 00:00:00 BC", "-63517824000000"},
		{decoder.TimestampOID, micros, "4714-11-24 00:00:00 BC", "-210866803200000000"},
		{decoder.TimestampOID, micros, "0001-12-31 23:59:59.5 BC", "-62135596800500000"},
		{decoder.TimestampOID, millis, "0001-12-31 23:59:59.5 BC", "-62135596800500"},
		{decoder.TimestampOID, micros, "294247-01-10 04:00:54.775807", "9223372036854775807"},
		{decoder.TimestampOID, micros, "294247-01-10 04:00:54.775808", "-9223372036854775808"},
		{decoder.TimestampOID, micros, "294247-01-10 04:00:55.5", "-9223372036854275809"},
		{decoder.TimestampOID, micros, "294276-12-31 23:59:59.999999", "-9223372036853775810"},
		{decoder.TimestampOID, millis, "294276-12-31 23:59:59.999999", "9224318015999999"},
		{decoder.DateOID, -1, "infinity", "2146033979"},
		{decoder.DateOID, -1, "-infinity", "-2147472691"},
		{decoder.DateOID, -1, "15000-01-01", "4759110"},
		{decoder.DateOID, -1, "10000-01-01", "2932897"},
		{decoder.DateOID, -1, "1969-12-31", "-1"},
		{decoder.DateOID, -1, "0044-03-15 BC", "-735160"},
		{decoder.DateOID, -1, "4714-11-24 BC", "-2440588"},
		{decoder.DateOID, -1, "0001-12-31 BC", "-719163"},
		{decoder.DateOID, -1, "5874897-12-31", "2145042905"},
	} {
		a := format.Attribute{Modifier: test.modifier}
		var scratch []byte
		got, err := connectText([]byte(test.text), test.typ, a, &scratch)
		if err != nil || string(got) != test.want {
			t.Errorf("type %d(%d) %s: %s, %v; want %s", test.typ, test.modifier, test.text, got, err, test.want)
		}
		want := test.want
		if test.typ == decoder.TimestampTZOID {
			want = `"` + want + `"`
		}
		if got, err := appendJSON(nil, []byte(test.text), test.typ, a); err != nil || string(got) != want {
			t.Errorf("JSON: type %d(%d) %s: %s, %v; want %s", test.typ, test.modifier, test.text, got, err, want)
		}
	}
	for _, text := range []string{"", " BC", "0000-01-01 00:00:00", "infinityy", "y", "15000-01-01T00:00:00", "99999999-01-01 00:00:00", "-1-01-01 00:00:00", "yesterday"} {
		for _, typ := range []uint32{decoder.DateOID, decoder.TimestampOID, decoder.TimestampTZOID} {
			var scratch []byte
			if got, err := connectText([]byte(text), typ, format.Attribute{Modifier: -1}, &scratch); err == nil && text != "0000-01-01 00:00:00" {
				t.Errorf("type %d %q: %s", typ, text, got)
			}
		}
	}
}
