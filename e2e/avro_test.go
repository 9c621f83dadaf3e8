package e2e

import (
	"bytes"
	"context"
	big "encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// registry is a real schema registry behind a door that can be shut.
type registry struct {
	*testbed.Registry
	t *testing.T
	// door is what the connector talks to.
	door *httptest.Server
	// answer is the HTTP status that the door gives instead of letting anybody
	// through; 0 lets through, shut closes the connection, hang says nothing.
	answer atomic.Int32
	asked  atomic.Int32
}

const shut, hang = -1, -2

// schemas returns the registry of the package's tests, behind a door of the
// test's own. With credentials the door asks for them, over TLS.
func schemas(t *testing.T, username, password string) *registry {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.registry == nil {
		r, err := testbed.StartRegistry(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		shared.registry = r
	}
	r := &registry{Registry: shared.registry, t: t}
	target, err := url.Parse(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	door := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.asked.Add(1)
		switch answer := r.answer.Load(); {
		case answer == shut:
			panic(http.ErrAbortHandler)
		case answer == hang:
			_, _ = io.Copy(io.Discard, req.Body) // else the server does not see the client leave
			<-req.Context().Done()
			return
		case answer != 0:
			http.Error(w, "the door says no", int(answer))
			return
		}
		isToken := password != "" && req.Header.Get("Authorization") == "Bearer "+password
		if user, pass, _ := req.BasicAuth(); (user != username || pass != password) && !isToken {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, req)
	})
	if username == "" {
		r.door = httptest.NewServer(door)
	} else {
		r.door = httptest.NewTLSServer(door)
	}
	t.Cleanup(r.door.Close)
	return r
}

// register adds a schema to a subject, past the door.
func (r *registry) register(subject, schema string) {
	r.t.Helper()
	r.ask(http.MethodPost, "/subjects/"+subject+"/versions", map[string]string{"schema": schema}, nil)
}

func (r *registry) ask(method, path string, body, into any) {
	r.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		r.t.Fatal(err)
	}
	req, err := http.NewRequest(method, r.URL()+path, bytes.NewReader(text))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		r.t.Fatalf("%s %s: %s %s", method, path, resp.Status, answer)
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			r.t.Fatal(err)
		}
	}
}

// decode reads records as a consumer does: the schema by its id from the
// registry, the body with Apache Avro's library.
func (r *registry) decode(records []record) []string {
	r.t.Helper()
	bodies := make(map[uint32][][]byte)
	of := make(map[uint32][]int)
	for i, rec := range records {
		if len(rec.value) < 5 || rec.value[0] != 0 {
			r.t.Fatalf("%v: its value does not begin as in the wire format: %x", rec, rec.value)
		}
		id := big.BigEndian.Uint32(rec.value[1:])
		bodies[id] = append(bodies[id], rec.value[5:])
		of[id] = append(of[id], i)
	}
	values := make([]string, len(records))
	for id, data := range bodies {
		var answer struct{ Schema string }
		r.ask(http.MethodGet, fmt.Sprintf("/schemas/ids/%d", id), nil, &answer)
		read, err := testbed.ReadAvro(r.t.Context(), answer.Schema, data...)
		if err != nil {
			r.t.Fatal(err)
		}
		for n, i := range of[id] {
			values[i] = string(read[n])
		}
	}
	return values
}

// scenario makes one with Avro values. more are further keys of value.avro.
func (r *registry) scenario(more string) *scenario {
	s := newScenario(r.t, nil, nil)
	s.extra = fmt.Sprintf("value: {format: avro, avro: {registry: %q%s}}\nerrors: {retry: {max: 500ms}}", r.door.URL, more)
	return s
}

// The envelope, read by Apache Avro: every kind of payload, and what is NULL.
func TestAvroEnvelope(t *testing.T) {
	t.Parallel()
	r := schemas(t, "", "")
	s := r.scenario("")
	s.extra += "\noutbox: {columns: {version: v, schema_version: sv, timestamp: at, correlation_id: c, causation_id: ''}}"
	s.exec(`ALTER TABLE outbox ADD v bigint, ADD sv int, ADD at timestamptz, ADD c text`)
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload, v, sv, at, c) VALUES
		('größe', 't0', '{"n": 12345678901234567890.10, "a": null}', 9007199254740993, 2, '2026-07-31 12:00:00.123456+00', 'x')`)
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '[]')`)
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', NULL)`)
	s.exec(`ALTER TABLE outbox ALTER payload TYPE bytea USING '\x00ff80'`)
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '\x00ff80')`)
	s.waitConfirmed(30 * time.Second)
	c.stop()

	var events []record
	for _, rec := range s.read() {
		if rec.value == nil {
			if rec.id != "3" {
				t.Errorf("%v is a tombstone", rec)
			}
			continue
		}
		events = append(events, rec)
	}
	want := map[string]string{
		"1": `{"id":{"string":"1"},"type":{"string":"t0"},"aggregate_type":{"string":"order"},"aggregate_id":{"string":"größe"},"version":{"long":9007199254740993},"schema_version":{"string":"2"},` +
			`"timestamp":{"long":1785499200123456},"correlation_id":{"string":"x"},"causation_id":null,"payload":{"string":"{\"a\": null, \"n\": 12345678901234567890.10}"}`,
		"2": `{"id":{"string":"2"},"type":{"string":"t0"},"aggregate_type":{"string":"order"},"aggregate_id":{"string":"k"},"version":null,"schema_version":null,` +
			`"timestamp":null,"correlation_id":null,"causation_id":null,"payload":{"string":"[]"}`,
		"4": `{"id":{"string":"4"},"type":{"string":"t0"},"aggregate_type":{"string":"order"},"aggregate_id":{"string":"k"},"version":null,"schema_version":null,` +
			`"timestamp":null,"correlation_id":null,"causation_id":null,"payload":{"bytes":"\u0000\u00ff\u0080"}`,
	}
	if len(events) != len(want) {
		t.Fatalf("%d events, want %d", len(events), len(want))
	}
	for i, got := range r.decode(events) {
		var envelope struct {
			CommittedAt int64 `json:"committed_at"`
			Position    string
		}
		if err := json.Unmarshal([]byte(got), &envelope); err != nil {
			t.Fatal(err)
		}
		at := time.UnixMicro(envelope.CommittedAt)
		if time.Since(at) > time.Hour || time.Since(at) < 0 {
			t.Errorf("committed at %s", at)
		}
		expected := strings.Replace(want[events[i].id], `,"correlation_id"`, fmt.Sprintf(`,"committed_at":%d,"correlation_id"`, envelope.CommittedAt), 1)
		expected = strings.Replace(expected, `,"payload"`, fmt.Sprintf(`,"position":%q,"payload"`, events[i].position), 1) + "}"
		if !sameJSON(t, got, expected) {
			t.Errorf("got  %s\nwant %s", got, expected)
		}
	}
	var subjects []string
	r.ask(http.MethodGet, "/subjects", nil, &subjects)
	if !strings.Contains(strings.Join(subjects, " "), s.topic+".t0-value") {
		t.Errorf("subjects %q", subjects)
	}
}

// sameJSON compares texts, numbers by their digits.
func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	normal := func(text string) string {
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		out, _ := json.Marshal(v)
		return string(out)
	}
	return normal(a) == normal(b)
}

// The registry is away at the start and again in mid-stream, behaves like an
// overloaded one, and refuses our credentials: it is waited for, with the reason
// on /readyz and in the log, and nothing is lost or repeated.
func TestAvroRegistryDown(t *testing.T) {
	t.Parallel()
	r := schemas(t, "", "")
	s := r.scenario("")
	address := freeAddress(t)
	s.env = []string{"OUTBOXD_HTTP_LISTEN=" + address}
	r.answer.Store(shut)
	c := s.startStreaming()
	s.events(1, 20)
	ready := func(want int, says string) {
		t.Helper()
		waitFor(t, 30*time.Second, func() (string, bool) {
			resp, err := http.Get("http://" + address + "/readyz")
			if err != nil {
				return err.Error(), false
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			return string(body), resp.StatusCode == want && strings.Contains(string(body), says)
		})
	}
	ready(503, s.topic+".t0-value")
	c.waitLog("EOF", 30*time.Second)
	for _, status := range []int{503, 429, 401} {
		r.answer.Store(int32(status))
		ready(503, fmt.Sprintf("answers %d", status))
	}
	r.answer.Store(hang)
	ready(503, "deadline exceeded")
	if n := len(s.read()); n != 0 {
		t.Errorf("%d records without a schema", n)
	}
	r.answer.Store(0)
	s.waitConfirmed(30 * time.Second)
	ready(200, "ok")

	// A known subject needs no registry; a new one waits for it, in the middle
	// of a transaction.
	r.answer.Store(shut)
	s.exec(`INSERT INTO outbox (aggregateid, type, payload)
		SELECT 'k' || i % 5, 't' || i / 31, jsonb_build_object('n', i) FROM generate_series(21, 40) i`)
	s.events(41, 50)
	ready(503, s.topic+".t1-value")
	waitFor(t, 30*time.Second, func() (string, bool) {
		n := s.arrived()
		return fmt.Sprintf("%d records", n), n == 30
	})
	r.answer.Store(0)
	s.waitConfirmed(30 * time.Second)
	ready(200, "ok")
	c.stop()
	records := s.read()
	if len(records) != 50 {
		t.Errorf("%d records, want 50", len(records))
	}
	last := make(map[string]string)
	for i, value := range r.decode(records) {
		rec := records[i]
		if !strings.Contains(value, fmt.Sprintf(`\"n\": %s}`, rec.id)) {
			t.Errorf("%v: %s", rec, value)
		}
		if at := rec.topic + rec.key; rec.position <= last[at] {
			t.Errorf("%v comes after %s", rec, last[at])
		} else {
			last[at] = rec.position
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(nil)
	defer server.Close()
	return server.Listener.Addr().String()
}

// A subject that holds an incompatible schema ends the run with the registry's
// reason; a subject that only is to be looked up and is missing is waited for.
func TestAvroSubjectThatDoesNotFit(t *testing.T) {
	t.Parallel()
	t.Run("incompatible", func(t *testing.T) {
		r := schemas(t, "", "")
		s := r.scenario("")
		subject := s.topic + ".t1-value"
		r.ask(http.MethodPut, "/config/"+subject, map[string]string{"compatibility": "BACKWARD"}, nil)
		r.register(subject, `{"type": "record", "name": "Envelope", "namespace": "outboxd", "fields": [{"name": "position", "type": "int"}]}`)
		c := s.startStreaming()
		s.events(1, 10)
		s.waitConfirmed(30 * time.Second)
		s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{"n": 11}'), ('k', 't1', '{"n": 12}')`)
		after := s.lsn("SELECT pg_current_wal_insert_lsn()::text")
		s.events(13, 20)
		c.failsWith(1, subject, `id "12"`, "refuses to register", "nothing after it is confirmed", "incompatib")
		if got := s.confirmed(); got >= after {
			t.Errorf("the slot is at %s, the refused event's transaction ends before %s", got, after)
		}
		if n := len(s.read()); n != 11 {
			t.Errorf("%d records before the refused event, want 11", n)
		}
		t.Logf("the last line: %s", c.lastLine())
	})
	t.Run("missing", func(t *testing.T) {
		r := schemas(t, "", "")
		s := r.scenario(", register: false, subject: '{topic}-{type}'")
		subject := s.topic + ".t0-t0"
		c := s.startStreaming()
		s.events(1, 10)
		c.waitLog("value.avro.register: true", 30*time.Second)
		if !c.logged(subject) {
			t.Errorf("the subject %s is not named:\n%s", subject, c.tail(5))
		}
		schema, err := os.ReadFile("../internal/format/avro/envelope.avsc")
		if err != nil {
			t.Fatal(err)
		}
		// As somebody may register it who has run it through a formatter.
		r.register(subject, strings.Join(strings.Fields(string(schema)), " "))
		s.waitConfirmed(30 * time.Second)
		c.stop()
		records := s.read()
		r.decode(records)
		if len(records) != 10 {
			t.Errorf("%d records, want 10", len(records))
		}
		var versions []int
		r.ask(http.MethodGet, "/subjects/"+subject+"/versions", nil, &versions)
		if len(versions) != 1 {
			t.Errorf("%d versions of the subject: something was registered", len(versions))
		}
	})
}

// Basic authentication, over TLS with an authority of the user's own.
func TestAvroRegistryWithCredentials(t *testing.T) {
	t.Parallel()
	r := schemas(t, "app", "hush-hush")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.door.Certificate().Raw})
	if err := os.WriteFile(ca, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	s := r.scenario(", username: app, password: '${REGISTRY_PASSWORD}', tls: {enabled: true, ca: '" + ca + "'}")
	s.env = []string{"REGISTRY_PASSWORD=hush", "OUTBOXD_LOG_LEVEL=trace"}
	c := s.startStreaming()
	s.events(1, 5)
	c.waitLog("answers 401", 30*time.Second)
	c.kill()
	wrong := c.tail(10_000)
	s.env[0] = "REGISTRY_PASSWORD=hush-hush"
	c = s.startStreaming()
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if n := len(r.decode(s.read())); n != 5 {
		t.Errorf("%d records, want 5", n)
	}
	if strings.Contains(wrong+c.tail(10_000), "hush") {
		t.Errorf("the password is in the log:\n%s\n%s", wrong, c.tail(100))
	}
}

// A bearer token that is issued anew while the connector waits.
func TestAvroRegistryWithToken(t *testing.T) {
	t.Parallel()
	r := schemas(t, "nobody", "hush-hush")
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.door.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	write("hush-expired")
	s := r.scenario(", token: '${file:" + file + "}', tls: {enabled: true, ca: '" + ca + "'}")
	s.env = []string{"OUTBOXD_LOG_LEVEL=trace"}
	c := s.startStreaming()
	s.events(1, 5)
	c.waitLog("check value.avro.token and its rights", 30*time.Second)
	write("hush-hush")
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if n := len(r.decode(s.read())); n != 5 {
		t.Errorf("%d records, want 5", n)
	}
	if strings.Contains(c.tail(10_000), "hush") {
		t.Errorf("the token is in the log:\n%s", c.tail(100))
	}
}

const orderSchema = `{"type": "record", "name": "Order", "namespace": "shop", "fields": [
	{"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
	{"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}},
	{"name": "placed", "type": {"type": "long", "logicalType": "timestamp-micros"}},
	{"name": "due", "type": ["null", {"type": "int", "logicalType": "date"}], "default": null},
	{"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["OPEN", "PAID"]}, "default": "OPEN"},
	{"name": "serial", "type": "long"},
	{"name": "hash", "type": ["null", "bytes"], "default": null},
	{"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "fields": [
		{"name": "price", "type": ["double", "string"]},
		{"name": "bundle", "type": {"type": "array", "items": "Line"}, "default": []}]}}}%s]}`

// The payload itself, by the schema that its subject has.
func TestAvroPayloadBySchema(t *testing.T) {
	t.Parallel()
	r := schemas(t, "", "")
	s := r.scenario(", payload: schema")
	s.env = []string{"OUTBOXD_ROUTE_KEY=none"}
	s.exec(`ALTER TABLE outbox ALTER payload TYPE json USING NULL`)
	subject := s.topic + ".t0-value"
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{"serial": 9007199254740993, "id": "8f3a7a0e-0000-4000-8000-000000000001",
		"total": 90071992547409.93, "placed": "2026-07-31T14:00:00.123456+02:00", "due": "1970-01-03", "hash": "AP+A",
		"lines": [{"price": 1.5}, {"price": "free", "bundle": [{"price": {"string": "x"}}]}]}')`)
	c.waitLog("register a schema for its payloads", 30*time.Second)
	r.register(subject, fmt.Sprintf(orderSchema, ""))
	s.waitConfirmed(30 * time.Second)
	// The schema grows, and the next payload needs it.
	r.register(subject, fmt.Sprintf(orderSchema, `, {"name": "note", "type": "string", "default": ""}`))
	minimal := `"id": "8f3a7a0e-0000-4000-8000-000000000002", "total": "-1.28", "placed": 1, "serial": -1`
	time.Sleep(1100 * time.Millisecond) // a subject is not looked up again within a second
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{` + minimal + `, "state": "PAID", "note": "n", "lines": []}')`)
	s.waitConfirmed(30 * time.Second)
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{` + minimal + `, "lines": [{"price": 1}, {"price": true}]}')`)
	c.failsWith(1, `id "3"`, "lines[1].price: true is none of double, string", subject, "poison event")

	want := []string{
		`{"id":"8f3a7a0e-0000-4000-8000-000000000001","total":"\u0020\u0000\u0000\u0000\u0000\u0000\u0001","placed":1785499200123456,"due":{"int":2},"state":"OPEN","serial":9007199254740993,
			"hash":{"bytes":"\u0000\u00ff\u0080"},"lines":[{"price":{"double":1.5},"bundle":[]},{"price":{"string":"free"},"bundle":[{"price":{"string":"x"},"bundle":[]}]}]}`,
		`{"id":"8f3a7a0e-0000-4000-8000-000000000002","total":"\u0080","placed":1,"due":null,"state":"PAID","serial":-1,"hash":null,"lines":[],"note":"n"}`,
	}
	var records []record
	for _, id := range []string{"1", "2"} { // without keys they may be in any partition
		for _, rec := range s.read() {
			if rec.id == id {
				records = append(records, rec)
			}
		}
	}
	if len(records) != 2 {
		t.Fatalf("%d records: %v", len(records), s.read())
	}
	for i, got := range r.decode(records) {
		if !sameJSON(t, got, want[i]) {
			t.Errorf("got  %s\nwant %s", got, want[i])
		}
	}
}

// A payload that its type's JSON Schema does not allow is a poison event; other
// types are not looked at; a bad file ends the start.
func TestJSONSchema(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	file := filepath.Join(t.TempDir(), "order.json")
	s.extra = fmt.Sprintf("value: {format: json, schema: {t0: %q}}", file)
	if err := os.WriteFile(file, []byte(`{"type": "objekt"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c := s.start()
	c.failsWith(2, "1 problem")
	if !c.logged("value.schema.t0") || !c.logged(file) {
		t.Errorf("neither key nor file is named:\n%s", c.tail(5))
	}
	if err := os.WriteFile(file, []byte(`{"$schema": "https://json-schema.org/draft/2020-12/schema",
		"properties": {"lines": {"items": {"properties": {"price": {"minimum": 0}}}}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c = s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{"lines": [{"price": 0}]}'), ('k', 't1', '{"lines": [{"price": -1}]}')`)
	s.waitConfirmed(30 * time.Second)
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{"lines": [{"price": 0}, {"price": -1}]}')`)
	c.failsWith(1, `id "3"`, "poison event", `"/lines/1/price"`, "/properties/lines/items/properties/price/minimum", `"t0"`)
	if n := len(s.read()); n != 2 {
		t.Errorf("%d records, want 2", n)
	}
}
