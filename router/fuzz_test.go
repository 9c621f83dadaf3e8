package router

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"outboxd/decoder"
	"outboxd/internal/record"
	"outboxd/internal/topicname"
)

// fuzzTypes are types whose text a route looks into, and one that it does not.
var fuzzTypes = []uint32{
	decoder.TextOID, decoder.BoolOID, decoder.Int4OID, decoder.Float8OID, decoder.Float4OID, decoder.DateOID,
	decoder.TimestampOID, decoder.TimestampTZOID, decoder.JSONOID, decoder.UUIDOID, decoder.ByteaOID, 12345,
}

// fuzzRouters are of every way to make a topic, with and without a key that may be NULL.
func fuzzRouters(t testing.TB) (routers []*Router) {
	regex, err := NewRegex(decoder.AggregateType, "aggregatetype", `(a|ab)(.*)`, `x.$2`)
	if err != nil {
		t.Fatal(err)
	}
	for _, nullKey := range []bool{false, true} {
		for _, regex := range []*Regex{nil, regex} {
			rules := base("{type}", decoder.AggregateID)
			rules.NullKey, rules.Regex, rules.Partition = nullKey, regex, decoder.Version
			rules.Forbidden, rules.Reserved = []string{"_*"}, map[string]string{"outboxd.positions": "delivery.topic"}
			rules.Overrides = []Override{{Type: "O?*d", Topic: "{column:tenant}.x"}, {AggregateType: "d*", Topic: ""}}
			rules.Columns = map[string]decoder.Field{"tenant": tenant}
			routers = append(routers, mustNew(t, rules))
		}
	}
	return routers
}

// FuzzRoute routes what a hostile server may send: any text, also an empty one, in
// a column of any type. The columns are separated by 0xFF, and one that is "-" is
// NULL.
func FuzzRoute(f *testing.F) {
	f.Add([]byte("1\xffOrderPlaced\xfforder\xffk\xff3\xff\xff-\xff-\xfft\xff2026-01-02 03:04:05\xff{}\xfft\xff{\"a\":1}"), uint64(0))
	f.Add(bytes.Repeat([]byte("\xff"), decoder.NumFields+2), uint64(0x111111111111))
	f.Add(bytes.Repeat([]byte("_schemas\xff"), decoder.NumFields+2), uint64(0xfedcba9876543))
	routers := fuzzRouters(f)
	f.Fuzz(func(t *testing.T, columns []byte, types uint64) {
		ev := event()
		for i := range ev.Values {
			var v []byte
			v, columns, _ = bytes.Cut(columns, []byte{0xFF})
			if ev.Values[i] = v; string(v) == "-" {
				ev.Values[i] = nil
			} else if v == nil {
				ev.Values[i] = []byte{}
			}
			ev.Types[i] = fuzzTypes[types>>(4*(i%16))&0xF%uint64(len(fuzzTypes))]
		}
		for _, r := range routers {
			var m record.Record
			err := r.Route(ev, &m)
			if err != nil {
				if !errors.Is(err, ErrUnroutable) || len(err.Error()) > 1000 {
					t.Fatalf("%v", err)
				}
				continue
			}
			if m.Topic == "" {
				continue
			}
			if topicname.Check(m.Topic) != nil || strings.HasPrefix(m.Topic, "_") || m.Topic == "outboxd.positions" {
				t.Fatalf("topic %q", m.Topic)
			}
			if m.Key == nil && !r.rules.NullKey || !bytes.Equal(m.Key, ev.Values[decoder.AggregateID]) {
				t.Fatalf("key %q", m.Key)
			}
		}
	})
}
