package decoder

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// emitted writes the message of a pg_logical_emit_message(transactional, prefix,
// content).
func emitted(transactional bool, prefix, content string) []byte {
	b := []byte{'M', 0}
	if transactional {
		b[1] = 1
	}
	b = be.AppendUint64(b, 0x4F0)
	b = append(b, prefix+"\x00"...)
	return append(be.AppendUint32(b, uint32(len(content))), content...)
}

// headerField is a further column of messageTable.
const headerField = Field(NumFields)

var messageTable = func() Table {
	columns := named(map[Field]string{
		ID: "id", Type: "kind", AggregateType: "aggregatetype", AggregateID: "aggregateid", Version: "version", Timestamp: "at", Payload: "payload",
	})
	return Table{Schema: "public", Name: "outbox", MessagePrefix: "shop", Columns: append(columns, Column{Name: "tenant", Key: "outbox.headers.tenant"})}
}()

// messaging is a decoder of messageTable in a transaction.
func messaging(t testing.TB) *decoding {
	t.Helper()
	d := decodeTable(t, messageTable)
	d.want(Begin, beginMessage(0x500, committedAt))
	return d
}

func TestMessage(t *testing.T) {
	for name, test := range map[string]struct {
		content string
		want    map[Field]string
	}{
		"by column": {`{"id":"a","kind":"Placed","aggregatetype":"order","aggregateid":"o-1","payload":{"a" : 1.0},"tenant":"t"}`,
			map[Field]string{ID: "a", Type: "Placed", AggregateType: "order", AggregateID: "o-1", Payload: `{"a" : 1.0}`, headerField: "t"}},
		"by field": {` { "type" : "Placed" , "aggregate_type":"order", "aggregate_id":"o-1" } `,
			map[Field]string{Type: "Placed", AggregateType: "order", AggregateID: "o-1"}},
		"the column's name wins":       {`{"kind":"column","type":"field","aggregate_id":"field","aggregateid":"column"}`, map[Field]string{Type: "column", AggregateID: "column"}},
		"also when it is null":         {`{"kind":null,"type":"field"}`, nil},
		"the last of a name":           {`{"id":"first","id":"last"}`, map[Field]string{ID: "last"}},
		"not mapped":                   {`{"causation_id":"c","other":[{"id":"inner"}],"x":{"type":"inner"}}`, nil},
		"JSON text":                    {`{"id":12,"type":true,"aggregate_id":1.50,"tenant":[1, 2],"aggregate_type":{"a": 1}}`, map[Field]string{ID: "12", Type: "true", AggregateID: "1.50", headerField: "[1, 2]", AggregateType: `{"a": 1}`}},
		"escapes":                      {`{"\u0069d":"a\"b\\c\u00e9\ud83d\ude00\/","tenant":"\n"}`, map[Field]string{ID: `a"b\cé😀/`, headerField: "\n"}},
		"empty":                        {`{}`, nil},
		"empty texts":                  {`{"id":"","payload":""}`, map[Field]string{ID: "", Payload: `""`}},
		"payload is verbatim":          {`{"payload":"a \u0041 \"text\""}`, map[Field]string{Payload: `"a \u0041 \"text\""`}},
		"payload with all in it":       {`{"payload": { "a":[1e400,{"}":"\"]"}],"b" :null ,"n":123456789012345678901234567890} ,"id":"x"}`, map[Field]string{ID: "x", Payload: `{ "a":[1e400,{"}":"\"]"}],"b" :null ,"n":123456789012345678901234567890}`}},
		"payload is a number":          {`{"payload":-1.50e3}`, map[Field]string{Payload: "-1.50e3"}},
		"payload is false":             {`{"payload":false}`, map[Field]string{Payload: "false"}},
		"payload is null":              {`{"payload":null,"id":null}`, nil},
		"version":                      {`{"version":7}`, map[Field]string{Version: "7"}},
		"version as text":              {`{"version":"007"}`, map[Field]string{Version: "7"}},
		"time in milliseconds":         {`{"at":1714979289123}`, map[Field]string{Timestamp: "1714979289123"}},
		"time in RFC 3339":             {`{"at":"2024-05-06T09:08:09.123+02:00"}`, map[Field]string{Timestamp: "2024-05-06T09:08:09.123+02:00"}},
		"time as PostgreSQL prints it": {`{"timestamp":"2024-05-06 07:08:09.123+00"}`, map[Field]string{Timestamp: "2024-05-06 07:08:09.123+00"}},
		"time with the other's T":      {`{"timestamp":"2024-05-06T07:08:09.123Z"}`, map[Field]string{Timestamp: "2024-05-06T07:08:09.123Z"}},
		"large":                        {`{"payload":"` + strings.Repeat("x", 3<<20) + `"}`, map[Field]string{Payload: `"` + strings.Repeat("x", 3<<20) + `"`}},
		"white space of every kind":    {"\r\n\t{ \"id\"\t:\n\"a\"\r,\"payload\" : [ ] }\n", map[Field]string{ID: "a", Payload: "[ ]"}},
		"a pair of surrogates":         {`{"id":"\ud83d\ude00"}`, map[Field]string{ID: "😀"}},
		"half of one, not read":        {`{"\ud800":"\ud800","id":"a","payload":"\ud800"}`, map[Field]string{ID: "a", Payload: `"\ud800"`}},
	} {
		t.Run(name, func(t *testing.T) {
			d := messaging(t)
			d.want(Insert, emitted(true, "shop", test.content))
			d.wantValues(test.want)
			ev := d.Event()
			if ev.Position != (Position{CommitLSN: 0x500, Number: 1}) || !ev.CommittedAt.Equal(committedAt) {
				t.Errorf("position %s, committed at %s", ev.Position, ev.CommittedAt)
			}
			if ev.Values[Payload] != nil && ev.Types[Payload] != JSONOID || ev.Values[Version] != nil && ev.Types[Version] != Int8OID {
				t.Errorf("payload of type %d, version of type %d", ev.Types[Payload], ev.Types[Version])
			}
			if ev.Values[Timestamp] != nil && !ev.Time.Equal(time.Date(2024, 5, 6, 7, 8, 9, 123e6, time.UTC)) {
				t.Errorf("time %s", ev.Time)
			}
		})
	}
}

func TestMessagesCountWithRows(t *testing.T) {
	d := messaging(t)
	columns := []column{{"id", uuidOID}, {"kind", textOID}, {"aggregatetype", textOID}, {"aggregateid", textOID}, {"version", 20}, {"at", TimestampTZOID}, {"payload", JSONBOID}, {"tenant", textOID}}
	d.want(Insert, emitted(true, "shop", `{"id":"1","tenant":"t"}`))
	d.want(Skipped, relationMessage(outboxID, "public", "outbox", columns...))
	d.want(Insert, insertMessage(outboxID, "2", "k", nil, nil, nil, nil, "{}", nil))
	d.wantValues(map[Field]string{ID: "2", Type: "k", Payload: "{}"})
	if ev := d.Event(); ev.Types[Payload] != JSONBOID {
		t.Errorf("a row has the type %d of a message", ev.Types[Payload])
	}
	d.want(Skipped, emitted(true, "shops", `{}`))
	d.want(Skipped, emitted(true, "sho", `no JSON`))
	d.want(Skipped, emitted(true, "", ``))
	d.want(Insert, emitted(true, "shop", `{"id":"3"}`))
	d.wantValues(map[Field]string{ID: "3"})
	if p := d.Event().Position; p.Number != 3 {
		t.Errorf("position %s", p)
	}
	d.want(Commit, commitMessage(0x500, 0x530))
	// Outside every transaction: not an event, whatever it holds.
	d.want(NonTransactional, emitted(false, "shop", `{`))
	d.want(Skipped, emitted(false, "other", `{`))
	if p := d.Position(); p.Number != 3 {
		t.Errorf("position %s", p)
	}
	d.wantError(ErrProtocol, emitted(true, "shop", `{}`), "outside a transaction")
}

func TestMessageWithoutATable(t *testing.T) {
	table := messageTable
	table.Schema, table.Name = "", ""
	d := decodeTable(t, table)
	d.want(Begin, beginMessage(0x500, committedAt))
	d.want(Skipped, relationMessage(outboxID, "public", "outbox", outboxColumns...))
	d.want(Skipped, insertMessage(outboxID, "id-1", "order-1", "T", nil, "{}"))
	d.want(Insert, emitted(true, "shop", `{"id":"1"}`))
	if p := d.Event().Position; p.Number != 1 {
		t.Errorf("position %s", p)
	}
}

func TestMessageErrors(t *testing.T) {
	for content, says := range map[string]string{
		"":                            "not JSON",
		"hello":                       "not JSON",
		`{"id":1`:                     "not JSON",
		`{"id":1} {}`:                 "not JSON",
		`{"id":01}`:                   "not JSON",
		`[1]`:                         "not a JSON object",
		` "id"`:                       "not a JSON object",
		`null`:                        "not a JSON object",
		"{\"id\":\"gr\xf6\xdfe\"}":    "not UTF-8",
		`{"version":1.5}`:             "version",
		`{"version":"two"}`:           "version",
		`{"at":"yesterday"}`:          "outbox.columns.timestamp",
		`{"at":1.5e12}`:               "outbox.columns.timestamp",
		`{"at":true}`:                 "outbox.columns.timestamp",
		`{"at":"20240-05-06T07:08Z"}`: "outbox.columns.timestamp",
		`{"id":"x\ud83dy"}`:           `member "id" has half of a surrogate pair`,
		`{"type":"\ude00\ud83d"}`:     "surrogate",
		// Deeper than any stack.
		`{"payload":` + strings.Repeat("[", 20e6): "not JSON",
	} {
		d := messaging(t)
		d.wantError(ErrRow, emitted(true, "shop", content), `"shop"`, says)
		if p := d.Event().Position; p != (Position{CommitLSN: 0x500, Number: 1}) {
			t.Errorf("position %s", p)
		}
		// The decoder goes on.
		d.want(Insert, emitted(true, "shop", `{"id":"next"}`))
		d.wantValues(map[Field]string{ID: "next"})
	}
}

func TestMalformedMessages(t *testing.T) {
	whole := emitted(true, "shop", `{"id":"1"}`)
	for n := 1; n < len(whole); n++ {
		messaging(t).wantError(ErrProtocol, whole[:n:n])
	}
	messaging(t).wantError(ErrProtocol, append(bytes.Clone(whole), 'x'))
}

// FuzzMessage compares with encoding/json.
func FuzzMessage(f *testing.F) {
	for _, content := range []string{`{"id":"a","kind":"x\n","payload":{"a":[1,"\"}"]},"tenant":null}`, `{"at":"2024-05-06T07:08:09Z"}`, ` {"version" : 12 } `, `[`, "\xff", `{"\u0069d":-0.5e+7}`} {
		f.Add([]byte(content))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		d := messaging(t)
		frame := emitted(true, "shop", string(content))
		kind, err := d.Decode(frame)
		if kind != Insert || err != nil && !errors.Is(err, ErrRow) {
			t.Fatalf("%v, %v", kind, err)
		}
		var want map[string]json.RawMessage
		if bad := json.Unmarshal(content, &want); bad != nil || want == nil || !utf8.Valid(content) {
			if err == nil {
				t.Fatalf("read %q, which is no JSON object in UTF-8", content)
			}
			return
		}
		ev := d.Event()
		for column, field := range map[string]Field{"id": ID, "tenant": headerField, "payload": Payload} {
			raw, got := want[column], ev.Values[field]
			switch {
			case raw == nil || string(raw) == "null":
				if got != nil {
					t.Fatalf("%s is %q instead of nil", column, got)
				}
			case field != Payload && raw[0] == '"':
				var s string
				if err := json.Unmarshal(raw, &s); err != nil || s != string(got) {
					t.Fatalf("%s is %q instead of %q", column, got, s)
				}
			case string(raw) != string(got):
				t.Fatalf("%s is %q instead of %q", column, got, raw)
			}
		}
		if v := ev.Values[Payload]; !within(v, frame) {
			t.Fatal("the payload lies outside its frame")
		}
	})
}
