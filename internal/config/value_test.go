package config

import (
	"math"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	tests := []struct {
		text   string
		want   Table
		string string
	}{
		{"outbox", Table{"public", "outbox"}, "public.outbox"},
		{"Shop.OutBox", Table{"shop", "outbox"}, "shop.outbox"},
		{`"my schema"."out box"`, Table{"my schema", "out box"}, `"my schema"."out box"`},
		{`"a.b".c`, Table{"a.b", "c"}, `"a.b".c`},
		{`a."B""c"`, Table{"a", `B"c`}, `a."B""c"`},
		{`"plain"`, Table{"public", "plain"}, "public.plain"},
		{"größe.t$1", Table{"größe", "t$1"}, "größe.t$1"},
	}
	for _, test := range tests {
		var got Table
		if err := got.UnmarshalText([]byte(test.text)); err != nil || got != test.want {
			t.Errorf("%s: got %+v, %v", test.text, got, err)
			continue
		}
		if got.String() != test.string {
			t.Errorf("%s: String %s", test.text, got)
		}
		var again Table
		if text, _ := got.MarshalText(); again.UnmarshalText(text) != nil || again != got {
			t.Errorf("%s: %s reads as %+v", test.text, text, again)
		}
	}
	var none Table
	if err := none.UnmarshalText(nil); err != nil || none != (Table{}) || none.String() != "" {
		t.Errorf("no table: %+v, %v, %q", none, err, none)
	}
	for _, bad := range []string{".", "a.", ".a", "a.b.c", "a b", "a;b", `"a`, `"a"b`, `"".a`, `"a" . "b"`, `a."b"c`} {
		var got Table
		if err := got.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q reads as %+v", bad, got)
		}
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]ByteSize{
		"0": 0, "1000000": 1e6, "12B": 12, "500KB": 500e3, "500kB": 500e3, "64MiB": 64 << 20, "1GiB": 1 << 30,
		"2TB": 2e12, "3 MB": 3e6, "1TiB": 1 << 40, "9223372036854775807": math.MaxInt64,
	} {
		var got ByteSize
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
		var again ByteSize
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%s: %s reads as %d, %v", text, got, again, err)
		}
	}
	for _, bad := range []string{"", "B", "-1", "1.5MB", "64M", "64mib", "1KiBB", "+1", "9223372036854775808", "9000000TiB", "1_000"} {
		var got ByteSize
		if got.UnmarshalText([]byte(bad)) == nil {
			t.Errorf("%q reads as %d", bad, got)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "100ms": 100 * time.Millisecond, "1h30m": 90 * time.Minute, "7d": 7 * 24 * time.Hour,
		"1d12h": 36 * time.Hour, "-5s": -5 * time.Second, "106751d": 106751 * 24 * time.Hour,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%s: got %s, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "5", "d", "-1d", "1.5d", "106752d", "106751d24h", "1d-1h", "1d2", "1w", "1d1d"} {
		if got, err := parseDuration(bad); err == nil {
			t.Errorf("%q reads as %s", bad, got)
		}
	}
}

func TestRewind(t *testing.T) {
	for text, want := range map[string]Rewind{
		"0s": {}, "0": {}, "24h": {Age: 24 * time.Hour}, "10GiB": {Bytes: 10 << 30}, "16777216": {Bytes: 16 << 20},
	} {
		var got Rewind
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want || got.IsZero() != (want == Rewind{}) {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
		var again Rewind
		if text, _ := got.MarshalText(); again.UnmarshalText(text) != nil || again != got {
			t.Errorf("%s reads as %+v", text, again)
		}
	}
	for _, bad := range []string{"", "-1h", "x"} {
		var got Rewind
		if got.UnmarshalText([]byte(bad)) == nil {
			t.Errorf("%q reads as %+v", bad, got)
		}
	}
}

func TestSuggest(t *testing.T) {
	names := []string{"brokers", "client_id", "tls", "sasl"}
	for name, want := range map[string]string{
		"broker": "brokers", "Brokers": "brokers", "client-id": "client_id", "tsl": "tls", "x": "", "listen": "",
	} {
		if got := suggest(name, names); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestColumnForm(t *testing.T) {
	config := mustLoad(t, given+"route: {topic: 'a.{column:region}.{type}', key: '{column:tenant}'}")
	if config.Route.Key != "{column:tenant}" {
		t.Errorf("key %s", config.Route.Key)
	}
	_, err := loadText(given + "route:\n  topic: 'a.{column:}'\n  key: '{column:'")
	wantError(t, err, `outboxd.yaml:4: route.topic: "a.{column:}" has an unknown placeholder; there are {type}, {aggregate_type} and {column:NAME}
outboxd.yaml:5: route.key: "{column:" is not one of none, id, aggregate_type, aggregate_id, type, timestamp, version, schema_version, correlation_id, causation_id, traceparent, {column:NAME}`)
}

func TestProcessors(t *testing.T) {
	for text, want := range map[string]Processors{"auto": 0, "1": 1, "4096": 4096} {
		var got Processors
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want || got.String() != text {
			t.Errorf("%s: got %d (%s), %v", text, int(got), got, err)
		}
	}
	for _, bad := range []string{"", "0", "-1", "4097", "Auto", "1.5"} {
		if err := new(Processors).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	for text, want := range map[string]MemoryLimit{"auto": AutoMemoryLimit, "off": NoMemoryLimit, "32MiB": 32 << 20, "1GiB": 1 << 30} {
		var got MemoryLimit
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want || got.String() != text {
			t.Errorf("%s: got %d (%s), %v", text, int64(got), got, err)
		}
	}
	for _, bad := range []string{"", "0", "-1", "31MiB", "none", "1"} {
		if err := new(MemoryLimit).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	// As YAML, without quotes.
	config := mustLoad(t, "postgres: {dsn: host=x}\nkafka: {brokers: [x]}\ntuning: {memory_limit: off, processors: 2}")
	if config.Tuning.MemoryLimit != NoMemoryLimit || config.Tuning.Processors != 2 {
		t.Errorf("%+v", config.Tuning)
	}
	if config = mustLoad(t, "postgres: {dsn: host=x}\nkafka: {brokers: [x]}\ntuning: {memory_limit: 100000000}"); config.Tuning.MemoryLimit != 1e8 {
		t.Errorf("%+v", config.Tuning)
	}
}
