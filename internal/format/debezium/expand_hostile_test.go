package debezium

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/formattest"
	"outboxd/internal/record"
)

func expanded(payload string) (string, error) {
	o := Options{Value: JSON, KeyField: decoder.NoField, Expand: &Expansion{}}
	ev := formattest.Empty()
	ev.Values[decoder.Payload] = []byte(payload)
	r, err := formattest.Encode(format.Options{Format: New(o)}, format.Outbox{}, ev)
	return string(r.Value), err
}

// What Jackson does not read, Debezium publishes as the text that it is.
func TestExpansionLimits(t *testing.T) {
	nested := func(depth int) string {
		return strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth)
	}
	for _, test := range []struct {
		name, payload string
		parsed        bool
	}{
		{"1,000 deep", nested(1000), true},
		{"1,001 deep", nested(1001), false},
		{"1,001 arrays deep", `{"a":` + strings.Repeat("[", 1000) + "1" + strings.Repeat("]", 1000) + "}", false},
		{"deeper than any stack", `{"a":` + strings.Repeat("[", 20e6), false},
		{"brackets in a text", `{"a":"` + strings.Repeat("[", 2000) + `"}`, true},
		{"deep behind the value", `{"a":1}` + strings.Repeat("[", 2000), true},
		{"a name of 50,000", `{"` + strings.Repeat("n", 50_000) + `":1}`, true},
		{"a name of 50,001", `{"` + strings.Repeat("n", 50_001) + `":1}`, false},
		{"a name of more bytes", `{"` + strings.Repeat("é", 50_000) + `":1}`, true},
		{"a name of more units", `{"` + strings.Repeat("🔑", 25_001) + `":1}`, false},
		{"1,000 digits behind 0", `{"n":-0.` + strings.Repeat("7", 1000) + `}`, true},
		{"1,001 digits behind 0", `{"n":-0.` + strings.Repeat("7", 1001) + `}`, false},
		{"1,000 digits", `{"n":1.` + strings.Repeat("7", 999) + `}`, true},
		{"1,001 digits", `{"n":1.` + strings.Repeat("7", 1000) + `}`, false},
		{"1,000 digits with an exponent", `{"n":0.` + strings.Repeat("7", 998) + `e-05}`, true},
		{"1,001 digits with an exponent", `{"n":0.` + strings.Repeat("7", 999) + `e-05}`, false},
		{"an integer of 1,001 digits", `{"n":` + strings.Repeat("7", 1001) + `}`, false},
	} {
		got, err := expanded(test.payload)
		if err != nil || (got[0] == '{') != test.parsed {
			t.Errorf("%s: %.60s, %v", test.name, got, err)
		}
	}
}

// Jackson does not write deeper than it reads either: in an envelope the deepest
// payload ends Debezium's task.
func TestExpansionLimitsInAnEnvelope(t *testing.T) {
	for depth, fits := range map[int]bool{999: true, 1000: false} {
		payload := []byte(strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth))
		if _, err := new(Expansion).append(nil, payload, true); (err == nil) != fits {
			t.Errorf("%d deep: %v", depth, err)
		}
	}
	// What is left out counts for nothing.
	payload := []byte(strings.Repeat(`{"a":`, 999) + "[]" + strings.Repeat("}", 999))
	if _, err := new(Expansion).append(nil, payload, true); err != nil {
		t.Error(err)
	}
}

// Each object of an array gets the members of all others: the square of the payload.
func TestExpansionOutputIsBounded(t *testing.T) {
	var objects []string
	for i := range 30_000 {
		objects = append(objects, fmt.Sprintf(`{"k%d":1}`, i))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := expanded(`{"a":[` + strings.Join(objects, ",") + `]}`)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, record.ErrUndeliverable) {
		t.Errorf("%v", err)
	}
	formattest.Says(t, err, "expand_json", "67108864 bytes")
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<30 {
		t.Errorf("%d MiB allocated", n>>20)
	}
}

// Time grows with the payload, and not with its square: members were searched one by
// one, and each level was read again for each above it.
func TestExpansionIsLinear(t *testing.T) {
	object := func(n int) string {
		var members []string
		for i := range n {
			members = append(members, fmt.Sprintf(`"k%d":1`, i))
		}
		return "{" + strings.Join(members, ",") + "}"
	}
	text := strings.Repeat("y", 4<<20)
	for name, test := range map[string]struct {
		payload      func(n int) string
		small, large int
		factor       time.Duration // a square of it would be more
	}{
		"members":      {object, 20_000, 80_000, 10},
		"array of two": {func(n int) string { return `{"a":[` + object(n) + "," + object(n) + `]}` }, 20_000, 80_000, 10},
		"depth": {func(n int) string {
			return strings.Repeat(`{"a":`, n) + `"` + text + `"` + strings.Repeat("}", n)
		}, 99, 990, 4},
	} {
		best := func(payload string) time.Duration {
			least := time.Hour
			for range 3 {
				start := time.Now()
				if got, err := expanded(payload); err != nil || got[0] != '{' {
					t.Fatalf("%s: %.40s, %v", name, got, err)
				}
				least = min(least, time.Since(start))
			}
			return least
		}
		small, large := best(test.payload(test.small)), best(test.payload(test.large))
		if large > test.factor*small+time.Second {
			t.Errorf("%s: %v for %d, %v for %d", name, small, test.small, large, test.large)
		}
	}
}

// Java holds half of a surrogate pair, and Jackson escapes it like any other unit.
func TestExpansionOfHalfSurrogates(t *testing.T) {
	for payload, want := range map[string]string{
		`{"b":"x\ud83dy"}`:            `{"b":"x\uD83Dy"}`,
		`{"\ude00":"\ud83d\ude00 é"}`: `{"\uDE00":"\uD83D\uDE00 é"}`,
	} {
		if got, err := expanded(payload); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", payload, got, err, want)
		}
	}
	// Not parsed, it is the text of an escape.
	for _, o := range []Options{{Value: JSON, KeyField: decoder.NoField}, {Value: JSON, KeyField: decoder.NoField, Expand: &Expansion{}}} {
		payload := ` {"b":"x\ud83dy"}`
		ev := formattest.Empty()
		ev.Values[decoder.Payload] = []byte(payload)
		r, err := formattest.Encode(format.Options{Format: New(o)}, format.Outbox{}, ev)
		got := r.Value
		if want := `" {\"b\":\"x\\ud83dy\"}"`; err != nil || string(got) != want {
			t.Errorf("%s: %s, %v; want %s", payload, got, err, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add([]byte(`{"a": [{"x": 1}, {"y": [null, "\ud83d"]}, null], "d": null, "e": [], "n": -0.0} rest`))
	f.Add([]byte(`[{"": 1e400}]`))
	f.Add([]byte("\x11\x1e\xed\xd2\x03")) // no UTF-8
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, x := range []Expansion{{}, {KeepNulls: true, KeepEmptyArrays: true}} {
			for _, envelope := range []bool{false, true} {
				got, err := x.append(nil, payload, envelope)
				if err != nil {
					continue
				}
				if !json.Valid(got) {
					t.Fatalf("%q became %q", payload, got)
				}
				if len(payload) > 0 && payload[0] != '{' && got[0] != '"' && got[0] != 'n' {
					t.Fatalf("%q was expanded to %q", payload, got)
				}
			}
		}
	})
}
