package format_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/cloudevents"
	"outboxd/internal/format/debezium"
	"outboxd/internal/format/formattest"
	"outboxd/internal/record"
)

// A row's headers cannot repeat or precede the connector's own names.
func TestMembersThatAreLeftOut(t *testing.T) {
	const forged = `{"position":"FFFFFFFFFFFFFFFF-FFFFFFFF","id":"forged","ce_id":"forged","content-type":"forged","version":"9","tenant":"forged",
		"replayed":"true","dead_letter_retry":"true","error.kind":"x","__connect.errors.topic":"x","__debezium.context.taskId":"9","mine":"1"}`
	always := []string{"replayed", "dead_letter_retry", "error.kind", "__connect.errors.topic", "__debezium.context.taskId", "tenant"}
	for name, test := range map[string]struct {
		style       format.Headers
		contentType string
		left        []string // beside those that always are
	}{
		"plain":         {format.Plain, "", []string{"position", "id", "version"}},
		"plain, a type": {format.Plain, "application/json", []string{"position", "id", "version", "content-type"}},
		"cloudevents":   {cloudevents.Headers{}, "", []string{"ce_id", "content-type"}},
		"debezium":      {debezium.IDHeader, "", []string{"id"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := format.Options{}
			o.Headers, o.Object, o.ContentType = test.style, formattest.Note, test.contentType
			o.Columns = []format.ColumnHeader{{Key: "tenant", Field: formattest.Tenant}}
			var left []string
			o.OnLeftOut = func(_ *decoder.Event, name string) { left = append(left, name) }
			r := opened(o)
			var plain, m record.Record
			if err := errors.Join(encode(r, formattest.Named(formattest.With(formattest.Note, `{}`)), &plain), encode(r, formattest.Named(formattest.With(formattest.Note, forged)), &m)); err != nil {
				t.Fatal(err)
			}
			// Its own are all there, once each, and the row's come behind them.
			count := make(map[string]int)
			for _, h := range m.Headers {
				count[h.Key]++
				if count[h.Key] > 1 || string(h.Value) == "forged" && slices.Contains(test.left, h.Key) {
					t.Errorf("%s: %q", h.Key, formattest.Headers(&m))
				}
			}
			for _, h := range plain.Headers {
				if count[h.Key] != 1 {
					t.Errorf("%s is missing: %q", h.Key, formattest.Headers(&m))
				}
			}
			if count["mine"] != 1 {
				t.Errorf("the row's own header is missing: %q", formattest.Headers(&m))
			}
			for _, name := range always {
				if count[name] > 0 && name != "tenant" {
					t.Errorf("%s: %q", name, formattest.Headers(&m))
				}
			}
			want := slices.Sorted(slices.Values(append(slices.Clone(always), test.left...)))
			slices.Sort(left)
			if !slices.Equal(left, want) {
				t.Errorf("left out %q, want %q", left, want)
			}
		})
	}
}

// Of members with one name the last counts, as in jsonb; a type json keeps them all.
func TestRepeatedMembers(t *testing.T) {
	o := format.Options{}
	o.Headers, o.Object = debezium.IDHeader, formattest.Note
	r := opened(o)
	var many []string
	want := []string{"id=value of id"}
	for i := range 5000 {
		many = append(many, fmt.Sprintf(`"h%d":0`, i))
		want = append(want, fmt.Sprintf("h%d=%d", i, i))
	}
	for i := range 5000 {
		many = append(many, fmt.Sprintf(`"h\u0000%d":null,"h%d":%d`, i, i, i))
	}
	for _, test := range []struct {
		object string
		want   []string
	}{
		{`{"a":1,"b":2,"a":3}`, []string{"id=value of id", "a=3", "b=2"}},
		{`{"a":1,"\u0061":"\u0062"}`, []string{"id=value of id", "a=b"}},
		{`{"a":1,"a":null}`, []string{"id=value of id"}},
		{`{"a":null,"a":1}`, []string{"id=value of id", "a=1"}},
		{"{" + strings.Join(many, ",") + "}", want},
		{`{"c":"","a":1}`, []string{"id=value of id", "c=", "a=1"}},
	} {
		var m record.Record
		for range 2 {
			if err := encode(r, formattest.Named(formattest.With(formattest.Note, test.object)), &m); err != nil || !slices.Equal(formattest.Headers(&m), test.want) {
				t.Errorf("%.60s: %.300q, %v", test.object, formattest.Headers(&m), err)
			}
		}
	}
}

func TestHalfSurrogatesInHeaders(t *testing.T) {
	o := format.Options{}
	o.Headers, o.Object = debezium.IDHeader, formattest.Note
	r := opened(o)
	var m record.Record
	for object, because := range map[string]string{
		`{"a":1,"b":"x\ud83dy"}`: `header "b"`,
		`{"x\ude00":1}`:          `\ude00`,
	} {
		err := encode(r, formattest.Named(formattest.With(formattest.Note, object)), &m)
		if !errors.Is(err, record.ErrUndeliverable) {
			t.Errorf("%s: %v", object, err)
			continue
		}
		formattest.Says(t, err, because, "surrogate", "outbox.headers_column")
	}
	// As the JSON that it is, nothing is lost.
	if err := encode(r, formattest.Named(formattest.With(formattest.Note, `{"o":{"b":"x\ud83dy"}}`)), &m); err != nil || formattest.Headers(&m)[1] != `o={"b":"x\ud83dy"}` {
		t.Errorf("%q, %v", formattest.Headers(&m), err)
	}
}
