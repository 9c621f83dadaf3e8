package avro

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/rs/zerolog"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/formattest"
	"outboxd/internal/record"
)

// empty is an event without any values.
func empty() *format.Event {
	return &format.Event{Event: formattest.Empty(), Outbox: new(format.Outbox)}
}

// fullEvent has every field.
func fullEvent() *format.Event {
	ev := empty()
	ev.Position = decoder.Position{CommitLSN: 0x1507C60, Number: 1}
	ev.CommittedAt = formattest.CommittedAt
	for f, v := range map[decoder.Field]string{
		decoder.ID: "8f3a", decoder.Type: "OrderPaid", decoder.AggregateType: "order", decoder.AggregateID: "größe-1",
		decoder.Version: "-9223372036854775808", decoder.SchemaVersion: "2.1", decoder.CorrelationID: "c", decoder.CausationID: "",
		decoder.TraceParent: "00-ab", decoder.Timestamp: "2026-07-31 12:00:00+00", decoder.Payload: `{"price": 1.10}`,
	} {
		ev.Values[f] = []byte(v)
	}
	ev.Time = time.Date(1969, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
	ev.Types[decoder.Payload] = decoder.JSONBOID
	return ev
}

// What is written by hand is what the schema's own interpreter writes, and stays
// the same bytes for ever.
func TestAvroEnvelope(t *testing.T) {
	sparse := empty()
	sparse.Position, sparse.CommittedAt = decoder.Position{CommitLSN: 0xFFFFFFFFFFFFFFFF, Number: 0xFFFFFFFF}, formattest.CommittedAt
	sparse.Values[decoder.Payload] = []byte{}
	binary := empty()
	binary.CommittedAt, binary.Types[decoder.Payload] = formattest.CommittedAt, decoder.ByteaOID
	binary.Values[decoder.Payload] = []byte{0, 0xFF, 0x80}
	tests := []struct {
		name   string
		ev     *format.Event
		fields map[string]any // what is not null
		golden string
	}{
		{"full", fullEvent(), map[string]any{
			"id": "8f3a", "type": "OrderPaid", "aggregate_type": "order", "aggregate_id": "größe-1",
			"version": int64(-9223372036854775808), "schema_version": "2.1", "correlation_id": "c", "causation_id": "",
			"timestamp": map[string]any{"long.timestamp-micros": time.UnixMicro(-1).UTC()}, "position": "0000000001507C60-00000001", "payload": map[string]any{"string": `{"price": 1.10}`},
		}, "020838663361" + "02124f7264657250616964" + "020a6f72646572" + "02126772c3b6c39f652d31" +
			"02ffffffffffffffffff01" + "0206322e31" + "0201" + "8091de8debf9ab06" + "020263" + "0200" +
			"32303030303030303030313530374336302d3030303030303031" + "021e7b227072696365223a20312e31307d"},
		{"sparse", sparse, map[string]any{"position": "FFFFFFFFFFFFFFFF-FFFFFFFF", "payload": map[string]any{"string": ""}}, ""},
		{"bytea", binary, map[string]any{"position": "", "payload": map[string]any{"bytes": []byte{0, 0xFF, 0x80}}}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := appendEnvelope(nil, test.ev)
			if err != nil {
				t.Fatal(err)
			}
			fields := map[string]any{"committed_at": formattest.CommittedAt}
			for _, f := range envelopeSchema.(*avro.RecordSchema).Fields() {
				if v, ok := test.fields[f.Name()]; ok {
					fields[f.Name()] = v
				} else if f.Name() != "committed_at" {
					fields[f.Name()] = nil
				}
			}
			want, err := avro.Marshal(envelopeSchema, fields)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("got  %x\nwant %x", got, want)
			}
			if test.golden != "" && hex.EncodeToString(got) != test.golden {
				t.Errorf("got    %x\ngolden %s", got, test.golden)
			}
		})
	}
}

func TestAvroEnvelopeRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		field decoder.Field
		value string
		says  []string
	}{
		"text":           {decoder.CorrelationID, "a\xff", []string{"correlation_id", "UTF-8"}},
		"payload":        {decoder.Payload, "\xc3", []string{"payload", "UTF-8"}},
		"version's type": {decoder.Version, "1.5", []string{"version", "64 bits"}},
		"version":        {decoder.Version, "9223372036854775808", []string{"version", "64 bits"}},
	} {
		t.Run(name, func(t *testing.T) {
			ev := fullEvent()
			ev.Values[test.field] = []byte(test.value)
			_, err := appendEnvelope(nil, ev)
			formattest.Says(t, err, test.says...)
		})
	}
}

// The envelope costs no allocation once a delivery has its memory and the
// subject is known.
func TestAvroEnvelopeDoesNotAllocate(t *testing.T) {
	e, ev, r := envelopeValue(t)
	if n := testing.AllocsPerRun(200, func() {
		r.Reset()
		if err := e.Encode(ev, r); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations an event", n)
	}
}

func BenchmarkAvroEnvelope(b *testing.B) {
	e, ev, r := envelopeValue(b)
	ev.Values[decoder.Payload] = []byte(`{"data": "` + strings.Repeat("x", 290) + `"}`)
	benchmarkEncode(b, e, ev, r)
}

func envelopeValue(t testing.TB) (*format.Encoder, *decoder.Event, *record.Record) {
	r := newFakeRegistry(t)
	return format.New(format.Options{Format: r.encoder(t, nil)}), fullEvent().Event, &record.Record{Record: kgo.Record{Topic: "orders"}}
}

// fakeRegistry answers as a registry does, or as it is told. The real one is in
// e2e.
type fakeRegistry struct {
	*httptest.Server
	mu       sync.Mutex
	asked    []string
	schemas  map[string][]string // by subject, all versions
	refs     map[string]string   // references, by schema
	override func(w http.ResponseWriter, r *http.Request) bool
}

func newFakeRegistry(t testing.TB) *fakeRegistry {
	r := &fakeRegistry{schemas: make(map[string][]string), refs: make(map[string]string)}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (f *fakeRegistry) encoder(t testing.TB, change func(*Options)) *Format {
	t.Helper()
	o := Options{Registry: f.URL, Subject: "{topic}-value", Register: true, Log: zerolog.Nop()}
	if change != nil {
		change(&o)
	}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r.Method+" "+r.URL.Path)
	if f.override != nil && f.override(w, r) {
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/subjects/"), "/")
	subject, versions := parts[0], f.schemas[parts[0]]
	answer := func(version int) {
		body, _ := json.Marshal(map[string]any{"subject": subject, "version": version, "id": 100*len(subject) + version, "schema": versions[version-1]})
		if refs := f.refs[versions[version-1]]; refs != "" {
			body = append(body[:len(body)-1], `,"references":`+refs+`}`...)
		}
		w.Write(body)
	}
	var posted struct{ Schema string }
	if r.Method == http.MethodPost {
		body, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(body, &posted)
		for i, s := range versions {
			if s == posted.Schema {
				answer(i + 1)
				return
			}
		}
	}
	switch {
	case r.Method == http.MethodPost && len(parts) == 2:
		versions = append(versions, posted.Schema)
		f.schemas[subject] = versions
		answer(len(versions))
	case len(parts) == 3 && parts[2] == "latest" && len(versions) > 0:
		answer(len(versions))
	case len(parts) == 3 && parts[2] != "latest" && len(versions) > 0:
		answer(int(parts[2][0] - '0'))
	default:
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"error_code": 40401, "message": "Subject not found."}`)
	}
}

func (f *fakeRegistry) set(override func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.override = override
}

func (f *fakeRegistry) questions() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

func TestAvroSubjects(t *testing.T) {
	r := newFakeRegistry(t)
	a := r.encoder(t, func(o *Options) { o.Subject = "{topic}-shop.{type}.{aggregate_type}" })
	ev := fullEvent()
	for range 3 {
		for _, topic := range []string{"a", "b"} {
			value, err := a.append(nil, ev, topic)
			if err != nil {
				t.Fatal(err)
			}
			subject := topic + "-shop.OrderPaid.order"
			if want := fmt.Sprintf("%010x", 100*len(subject)+1); hex.EncodeToString(value[:5]) != want {
				t.Errorf("the value begins with %x, want %s", value[:5], want)
			}
		}
	}
	if n := r.questions(); n != 6 {
		t.Errorf("%d questions for two subjects, each looked up, looked at, and registered: %q", n, r.asked)
	}
	ev.Values[decoder.Type] = nil
	_, err := a.append(nil, ev, "a")
	formattest.Says(t, err, "type is NULL", "value.avro.subject")
}

func TestAvroLookUpOnly(t *testing.T) {
	r := newFakeRegistry(t)
	a := r.encoder(t, func(o *Options) { o.Register = false })
	_, err := a.append(nil, fullEvent(), "orders")
	var passing *format.RegistryError
	if !errors.As(err, &passing) {
		t.Errorf("a missing subject: %v", err)
	}
	formattest.Says(t, err, `"orders-value"`, "does not know it", "value.avro.register")
	r.schemas["orders-value"] = []string{`"string"`}
	_, err = a.append(nil, fullEvent(), "orders")
	if !errors.As(err, &passing) {
		t.Errorf("another schema: %v", err)
	}
	formattest.Says(t, err, `"orders-value"`, "no schema that is the envelope's")
	// Registered by hand, with other white space and documentation.
	r.schemas["orders-value"] = []string{strings.ReplaceAll(strings.Join(strings.Fields(envelopeText), " "), "The event's id.", "Id.")}
	if _, err := a.append(nil, fullEvent(), "orders"); err != nil {
		t.Error(err)
	}
	if got := r.schemas["orders-value"]; len(got) != 1 {
		t.Errorf("it was registered: %q", got)
	}
}

// What may pass is told from what an operator has to change.
func TestRegistryAnswers(t *testing.T) {
	answer := func(code int, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(code)
			io.WriteString(w, body)
			return true
		}
	}
	for name, test := range map[string]struct {
		override func(http.ResponseWriter, *http.Request) bool
		passes   bool
		says     []string
	}{
		"incompatible":       {answer(409, `{"error_code": 409, "message": "READER_FIELD_MISSING_DEFAULT_VALUE at /fields/3"}`), false, []string{"orders-value", "READER_FIELD_MISSING_DEFAULT_VALUE at /fields/3"}},
		"another form of it": {answer(409, `{"title": "no", "detail": "x"}`), false, []string{`{"title": "no", "detail": "x"}`}},
		"invalid":            {answer(422, `{"error_code": 42201, "message": "invalid"}`), false, []string{"invalid"}},
		"read-only":          {answer(422, `{"error_code": 42205, "message": "Subject in read-only mode"}`), true, []string{"not permit", "read-only mode"}},
		"no user":            {answer(401, ""), true, []string{"401", "value.avro.username"}},
		"no right":           {answer(403, `{"message": "not yours"}`), true, []string{"403", "not yours", "its rights"}},
		"another path":       {answer(404, "<html>\n<b>nothing</b>"+strings.Repeat("x", 5000)), true, []string{"404", "<html> <b>nothing</b>", "value.avro.registry", "…"}},
		"busy":               {answer(429, ""), true, []string{"429"}},
		"broken":             {answer(500, ""), true, []string{"500"}},
		"a load balancer":    {answer(503, "<html>"), true, []string{"503"}},
		"not JSON":           {answer(200, "<html>"), true, []string{"decode"}},
		"closes": {func(w http.ResponseWriter, _ *http.Request) bool {
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.Close()
			return true
		}, true, []string{"EOF"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFakeRegistry(t)
			r.set(test.override)
			answered := 0
			a := r.encoder(t, func(o *Options) {
				o.Username, o.Password = "app", "hush-hush"
				o.OnAnswer = func() { answered++ }
			})
			v, d := format.New(format.Options{Format: a}), &record.Record{Record: kgo.Record{Topic: "orders"}}
			err := v.Encode(fullEvent().Event, d)
			var passing *format.RegistryError
			if passes := errors.As(err, &passing); passes != test.passes || errors.Is(err, format.ErrSchemaRefused) == passes || errors.Is(err, record.ErrUndeliverable) {
				t.Errorf("passes: %t, want %t: %v", passes, test.passes, err)
			}
			formattest.Says(t, err, test.says...)
			if strings.Contains(err.Error(), "hush") || len(err.Error()) > 2000 {
				t.Errorf("%d characters: %v", len(err.Error()), err)
			}
			r.set(nil)
			if err := v.Encode(fullEvent().Event, d); err != nil || answered != 1 {
				t.Errorf("when all is well again: %v, %d answers", err, answered)
			}
		})
	}
}

// A subject's newest schema is asked for again after a while, and at once for a
// payload that does not fit; a registry that is down meanwhile is no reason to
// stop while the known schema fits.
func TestAvroSchemaChanges(t *testing.T) {
	one := `{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "string"}]}`
	two := `{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "string"}, {"name": "n", "type": "int", "default": 7}]}`
	r := newFakeRegistry(t)
	r.schemas["orders-value"] = []string{one}
	a := r.encoder(t, func(o *Options) { o.BySchema = true })
	now := time.Now()
	a.now = func() time.Time { return now }
	value := func(payload string) (string, error) {
		ev := fullEvent()
		ev.Values[decoder.Payload] = []byte(payload)
		b, err := a.append(nil, ev, "orders")
		return hex.EncodeToString(b), err
	}
	want := func(payload, want string) {
		t.Helper()
		if got, err := value(payload); got != want || err != nil {
			t.Errorf("%s: %s, %v; want %s", payload, got, err, want)
		}
	}
	const id1, id2 = "00000004b1", "00000004b2"
	want(`{"id": "a"}`, id1+"0261")
	_, err := value(`{"id": "a", "n": 1}`)
	formattest.Says(t, err, "n: ", "no such field", `"orders-value"`, "version 1")
	if n := r.questions(); n != 1 {
		t.Errorf("asked %d times at once", n)
	}

	r.schemas["orders-value"] = []string{one, two}
	want(`{"id": "a"}`, id1+"0261") // it still fits
	now = now.Add(2 * misfitPause)
	want(`{"id": "a", "n": 1}`, id2+"026102")
	want(`{"id": "a"}`, id2+"02610e")

	r.schemas["orders-value"] = []string{one, two, one}
	now = now.Add(refreshAfter + time.Second)
	r.set(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true })
	want(`{"id": "a", "n": 1}`, id2+"026102")
	asked := r.questions()
	want(`{"id": "a", "n": 1}`, id2+"026102")
	if r.questions() != asked {
		t.Error("a registry that is down is asked for each event")
	}
	_, err = value(`{"id": 5}`)
	var passing *format.RegistryError
	if !errors.As(err, &passing) {
		t.Errorf("a misfit, and the registry cannot say whether it is one: %v", err)
	}
	r.set(nil)
	now = now.Add(retryRefresh + time.Second)
	want(`{"id": "a"}`, "00000004b30261")
}

func TestAvroSchemaThatCannotBeUsed(t *testing.T) {
	for name, test := range map[string]struct {
		schema string
		says   []string
	}{
		"no schema":      {`{"type": "record", "name": "A"`, []string{"version 1"}},
		"unknown name":   {`{"type": "record", "name": "A", "fields": [{"name": "b", "type": "shop.B"}]}`, []string{"shop.B"}},
		"deep":           {strings.Repeat("[", 100_000), []string{"version 1"}},
		"strange":        {`{"type": 5}`, []string{"version 1"}},
		"negative fixed": {`{"type": "fixed", "name": "F", "size": "x"}`, []string{"version 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFakeRegistry(t)
			r.schemas["orders-value"] = []string{test.schema}
			a := r.encoder(t, func(o *Options) { o.BySchema = true })
			_, err := a.append(nil, fullEvent(), "orders")
			if !errors.Is(err, format.ErrSchemaRefused) {
				t.Errorf("%v", err)
			}
			formattest.Says(t, err, append(test.says, `"orders-value"`)...)
		})
	}
}

// A schema may be made of others, which are other subjects.
func TestAvroReferences(t *testing.T) {
	order := `{"type": "record", "name": "Order", "namespace": "shop", "fields": [{"name": "lines", "type": {"type": "array", "items": "shop.Line"}}]}`
	line := `{"type": "record", "name": "Line", "namespace": "shop", "fields": [{"name": "sku", "type": "shop.SKU"}]}`
	r := newFakeRegistry(t)
	r.schemas["orders-value"], r.schemas["line"], r.schemas["sku"] = []string{order}, []string{`"string"`, line}, []string{`{"type": "fixed", "name": "shop.SKU", "size": 3}`}
	r.refs[order] = `[{"name": "shop.Line", "subject": "line", "version": 2}]`
	r.refs[line] = `[{"name": "shop.SKU", "subject": "sku", "version": 1}]`
	a := r.encoder(t, func(o *Options) { o.BySchema = true })
	ev := fullEvent()
	ev.Values[decoder.Payload] = []byte(`{"lines": [{"sku": "YWJj"}]}`)
	value, err := a.append(nil, ev, "orders")
	if want := "0261626300"; err != nil || hex.EncodeToString(value[5:]) != want {
		t.Errorf("%x, %v; want %s", value, err, want)
	}

	r.schemas["sku"] = nil
	a = r.encoder(t, func(o *Options) { o.BySchema = true })
	_, err = a.append(nil, ev, "orders")
	formattest.Says(t, err, `"orders-value"`, `"shop.SKU"`, `subject "sku" version 1`)
}

// A registry that is down is not asked for one known subject after the other.
func TestAvroRefreshPausesForAllSubjects(t *testing.T) {
	r := newFakeRegistry(t)
	a := r.encoder(t, func(o *Options) { o.BySchema = true })
	now := time.Now()
	a.now = func() time.Time { return now }
	ev := fullEvent()
	ev.Values[decoder.Payload] = []byte(`"x"`)
	topics := []string{"a", "b", "c"}
	all := func() {
		t.Helper()
		for _, topic := range topics {
			if _, err := a.append(nil, ev, topic); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, topic := range topics {
		r.schemas[topic+"-value"] = []string{`"string"`}
	}
	all()
	r.set(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true })
	now = now.Add(refreshAfter + time.Second)
	asked := r.questions()
	all()
	if n := r.questions() - asked; n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	r.set(nil)
	now = now.Add(retryRefresh + time.Second)
	asked = r.questions()
	all()
	all()
	if n := r.questions() - asked; n != len(topics) {
		t.Errorf("asked %d times when it is back, want once for each of %d subjects", n, len(topics))
	}
}

func BenchmarkAvroPayload(b *testing.B) {
	r := newFakeRegistry(b)
	r.schemas["orders-value"] = []string{`{"type": "record", "name": "Order", "fields": [
		{"name": "id", "type": "string"}, {"name": "total", "type": ["null", "long"]}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
		{"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "fields": [{"name": "sku", "type": "string"}, {"name": "n", "type": "int", "default": 1}]}}}]}`}
	e := format.New(format.Options{Format: r.encoder(b, func(o *Options) { o.BySchema = true })})
	ev := fullEvent().Event
	ev.Values[decoder.Payload] = []byte(`{"id": "order-1009", "total": 123456, "at": "2026-07-31T12:00:00Z", "lines": [` + strings.Repeat(`{"sku": "abcdef", "n": 2}, `, 8) + `{"sku": "x"}]}`)
	benchmarkEncode(b, e, ev, &record.Record{Record: kgo.Record{Topic: "orders"}})
}

func benchmarkEncode(b *testing.B, e *format.Encoder, ev *decoder.Event, r *record.Record) {
	b.SetBytes(int64(len(ev.Values[decoder.Payload])))
	b.ReportAllocs()
	// Where instructions are counted, the registry may be too slow at first.
	for range 10 {
		if e.Encode(ev, r) == nil {
			break
		}
	}
	for b.Loop() {
		r.Headers = r.Headers[:0] // the router resets the record
		if err := e.Encode(ev, r); err != nil {
			b.Fatal(err)
		}
	}
}

// What is served while the registry is asked may go wrong: that says nothing of the
// event, which is tried again.
func TestWaitThatGoesWrong(t *testing.T) {
	r := newFakeRegistry(t)
	lost := errors.New("connection lost")
	e := format.New(format.Options{Format: r.encoder(t, nil)})
	e.Open(format.Outbox{Await: func(f func()) error { f(); return lost }})
	d := &record.Record{Record: kgo.Record{Topic: "orders"}}
	if err := e.Encode(fullEvent().Event, d); !errors.Is(err, lost) || errors.Is(err, record.ErrUndeliverable) {
		t.Errorf("%v", err)
	}
	e.Open(format.Outbox{})
	if err := e.Encode(fullEvent().Event, d); err != nil {
		t.Error(err)
	}
}
