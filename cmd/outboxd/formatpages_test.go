package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/rs/zerolog"

	"outboxd/decoder"
	"outboxd/internal/config"
	"outboxd/internal/connector"
	"outboxd/internal/format"
	"outboxd/internal/record"
	"outboxd/internal/status"
	"outboxd/router"
)

// The pages of docs/formats show the records that their configurations give for the rows
// of docs/formats.md: each record whole, in the order of the rows.
func TestRecordsOfTheManual(t *testing.T) {
	index, err := os.ReadFile("../../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := exampleOf(t, string(index))
	pages, err := filepath.Glob("../../docs/formats/*.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string]bool)
	for _, path := range pages {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(index), "(formats/"+filepath.Base(path)+")") {
				t.Errorf("docs/formats.md has no link to %s", path)
			}
			page := readFormatPage(string(text))
			if len(page) == 0 {
				t.Fatal("it has no configuration")
			}
			for _, part := range page {
				cfg, records := part.records(t, page[0].configuration, rows)
				shown[cfg.Value.Format] = true
				if len(part.shown) != len(records) {
					t.Errorf("%d records are shown, and there are %d, of\n%s", len(part.shown), len(records), part.configuration)
				}
				part.read(t)
				part.run(t)
				for i, got := range records {
					if i >= len(part.shown) || unwrapped(part.shown[i]) != unwrapped(got) {
						want := ""
						if i < len(part.shown) {
							want = part.shown[i]
						}
						t.Errorf("with\n%s\nthe page shows\n%s\nand the record is\n%s", part.configuration, want, got)
					}
				}
			}
		})
	}
	for name := range formats {
		if !shown[name] {
			t.Errorf("no page of docs/formats has value.format: %s", name)
		}
	}
}

// exampleRows are the rows that all pages show, as a transaction in the WAL.
type exampleRows struct {
	attributes map[string]format.Attribute
	types      map[string]uint32
	messages   [][]byte
}

// exampleOf reads the table and the rows from docs/formats.md.
func exampleOf(t *testing.T, page string) *exampleRows {
	t.Helper()
	x := &exampleRows{make(map[string]format.Attribute), make(map[string]uint32), nil}
	_, create, _ := strings.Cut(page, "CREATE TABLE outbox (\n")
	create, _, _ = strings.Cut(create, "\n);")
	const relation, schema = 16390, "public"
	be := binary.BigEndian
	begin := be.AppendUint64([]byte{'B'}, 0x1507C60)
	begin = be.AppendUint64(begin, uint64(time.Date(2026, 7, 31, 12, 30, 0, 123456000, time.UTC).Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds()))
	columns, described := 0, []byte(nil)
	for _, m := range regexp.MustCompile(`(?m)^ +(\w+) +(\w+)(.*)$`).FindAllStringSubmatch(create, -1) {
		if m[2] == "int" {
			m[2] = "int4" // its name in pg_type
		}
		if x.types[m[1]] = decoder.TypeOIDs[m[2]]; x.types[m[1]] == 0 {
			t.Fatalf("type %s of column %s is not known", m[2], m[1])
		}
		x.attributes[m[1]] = format.Attribute{NotNull: strings.Contains(m[3], "NOT NULL") || strings.Contains(m[3], "PRIMARY KEY"), Modifier: -1}
		described = append(described, "\x00"+m[1]+"\x00"...)
		described = be.AppendUint32(described, x.types[m[1]])
		described = append(described, 0xFF, 0xFF, 0xFF, 0xFF)
		columns++
	}
	relationMessage := append(be.AppendUint32([]byte{'R'}, relation), schema+"\x00outbox\x00d"...)
	relationMessage = append(be.AppendUint16(relationMessage, uint16(columns)), described...)
	x.messages = append(x.messages, be.AppendUint32(begin, 742), relationMessage)
	for _, row := range regexp.MustCompile(`(?m)^INSERT INTO outbox VALUES \((.*)\);$`).FindAllStringSubmatch(page, -1) {
		values := regexp.MustCompile(`'([^']*)'|NULL|\d+`).FindAllStringSubmatch(row[1], -1)
		if len(values) != columns {
			t.Fatalf("%d values for %d columns: %s", len(values), columns, row[0])
		}
		insert := be.AppendUint16(append(be.AppendUint32([]byte{'I'}, relation), 'N'), uint16(columns))
		for _, v := range values {
			if v[0] == "NULL" {
				insert = append(insert, 'n')
				continue
			}
			text := strings.Trim(v[0], "'")
			insert = append(be.AppendUint32(append(insert, 't'), uint32(len(text))), text...)
		}
		x.messages = append(x.messages, insert)
	}
	if len(x.messages) < 5 {
		t.Fatal("docs/formats.md has no three rows")
	}
	return x
}

// formatPart is a configuration of a page with what is shown of its records.
type formatPart struct {
	configuration, schema string
	shown                 []string
	reads                 []string // what Avro reads in the first values
	code, prints          string   // what a consumer does in Python, and prints

	registry *httptest.Server
	made     []*record.Record
}

var formatBlock = regexp.MustCompile("(?ms)^```(yaml|text|json|python)\n(.*?)^```$")

func readFormatPage(page string) (parts []*formatPart) {
	for _, m := range formatBlock.FindAllStringSubmatch(page, -1) {
		if m[1] == "yaml" {
			parts = append(parts, &formatPart{configuration: m[2]})
		}
		if len(parts) == 0 {
			continue
		}
		part := parts[len(parts)-1]
		switch {
		case m[1] == "text" && strings.HasPrefix(m[2], "topic: "):
			part.shown = append(part.shown, m[2])
		case m[1] == "text" && part.code != "" && part.prints == "":
			part.prints = m[2]
		case m[1] == "json" && strings.Contains(m[2], `"fields"`):
			part.schema = m[2]
		case m[1] == "json":
			part.reads = strings.Split(strings.TrimSpace(m[2]), "\n")
		case m[1] == "python":
			part.code = m[2]
		}
	}
	return parts
}

// records are those that the configuration gives for the rows. Groups that it lacks are
// those of the page's first one.
func (p *formatPart) records(t *testing.T, first string, rows *exampleRows) (*config.Config, []string) {
	t.Helper()
	text := p.configuration
	for group := range strings.SplitSeq(first, "\n") {
		if name, _, found := strings.Cut(group, ":"); found && !strings.HasPrefix(group, " ") && !regexp.MustCompile(`(?m)^`+name+":").MatchString(text) {
			text += regexp.MustCompile(`(?m)^` + name + `:.*\n( .*\n)*`).FindString(first)
		}
	}
	p.registry = httptest.NewServer(registryOf(p.schema))
	t.Cleanup(p.registry.Close)
	var env []string
	if strings.Contains(text, "registry:") {
		env = append(env, "OUTBOXD_VALUE_AVRO_REGISTRY="+p.registry.URL)
	}
	file := filepath.Join(t.TempDir(), "outboxd.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file, env)
	if err != nil {
		t.Fatal(err)
	}
	o, err := connectorOptions(cfg, status.New(0), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	o.Table.Types = rows.types
	outbox := format.Outbox{Source: []byte(connector.Source("shop", o.Table))}
	for _, c := range o.Table.Columns {
		attribute, there := rows.attributes[c.Name]
		if !there {
			attribute.Modifier = -1
		}
		outbox.Attributes = append(outbox.Attributes, attribute)
	}
	to, err := router.New(o.Rules)
	if err != nil {
		t.Fatal(err)
	}
	encoder, d := format.New(o.Format), decoder.New(o.Table)
	if err := encoder.Open(outbox); err != nil {
		t.Fatal(err)
	}
	var records []string
	for _, message := range rows.messages {
		kind, err := d.Decode(append([]byte(nil), message...))
		if err != nil {
			t.Fatal(err)
		}
		if kind != decoder.Insert {
			continue
		}
		r := new(record.Record)
		r.Reset()
		if err := to.Route(d.Event(), r); err != nil {
			t.Fatal(err)
		}
		if err := encoder.Encode(d.Event(), r); err != nil {
			t.Fatal(err)
		}
		records = append(records, shownRecord(r))
		for i, h := range r.Headers { // which are views of memory that is used again
			r.Headers[i].Value = bytes.Clone(h.Value)
		}
		p.made = append(p.made, r)
	}
	return cfg, records
}

// read compares what the page says that Avro reads with what it does.
func (p *formatPart) read(t *testing.T) {
	t.Helper()
	for i, want := range p.reads {
		answer, err := http.Get(p.registry.URL + "/schemas/ids/1")
		if err != nil {
			t.Fatal(err)
		}
		var registered struct{ Schema string }
		err = json.NewDecoder(answer.Body).Decode(&registered)
		answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		schema, err := avro.Parse(registered.Schema)
		if err != nil {
			t.Fatal(err)
		}
		fields := make(map[string]any)
		if err := avro.Unmarshal(schema, p.made[i].Value[5:], &fields); err != nil {
			t.Fatal(err)
		}
		for name, value := range fields {
			if union, ok := value.(map[string]any); ok {
				for _, member := range union {
					value = member
				}
			}
			if at, ok := value.(time.Time); ok {
				value = at.UnixMicro()
			}
			fields[name] = value
		}
		got, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if json.Unmarshal(got, &a) != nil || json.Unmarshal([]byte(want), &b) != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("the page says that Avro reads\n%s\nand it is\n%s", want, got)
		}
	}
}

// pythonMessages calls on with messages as confluent-kafka's are.
const pythonMessages = `
class Message:
    def __init__(self, topic, key, value, headers):
        self.topic = lambda: topic
        self.key = lambda: None if key is None else bytes.fromhex(key)
        self.value = lambda: None if value is None else bytes.fromhex(value)
        self.headers = lambda: [(name, bytes.fromhex(text)) for name, text in headers] or None

for line in __import__("sys").stdin:
    on(Message(*__import__("json").loads(line)))
`

// run runs what a consumer does in Python with the records, and compares what it prints.
func (p *formatPart) run(t *testing.T) {
	t.Helper()
	python, err := exec.LookPath("python3")
	switch {
	case p.code == "":
		return
	case p.prints == "":
		t.Errorf("the page does not say what this prints:\n%s", p.code)
		return
	case err != nil:
		t.Log("there is no python3: what a consumer does is not run")
		return
	}
	var messages bytes.Buffer
	for _, r := range p.made {
		text := func(b []byte) *string {
			if b == nil {
				return nil
			}
			digits := hex.EncodeToString(b)
			return &digits
		}
		headers := [][2]string{}
		for _, h := range r.Headers {
			headers = append(headers, [2]string{h.Key, hex.EncodeToString(h.Value)})
		}
		if err := json.NewEncoder(&messages).Encode([]any{r.Topic, text(r.Key), text(r.Value), headers}); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "consumer.py")
	code := strings.ReplaceAll(p.code, "http://registry:8081", p.registry.URL) + pythonMessages
	if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	var printed, wrong bytes.Buffer
	c := exec.CommandContext(t.Context(), python, file)
	c.Stdin, c.Stdout, c.Stderr = &messages, &printed, &wrong
	switch err := c.Run(); {
	case strings.Contains(wrong.String(), "No module named 'confluent_kafka'"):
		t.Log("there is no confluent_kafka: what a consumer does is not run")
	case err != nil:
		t.Errorf("%v: %s\n%s", err, wrong.String(), code)
	case printed.String() != p.prints:
		t.Errorf("the page says that its consumer prints\n%s\nand it prints\n%s", p.prints, printed.String())
	}
}

// shownRecord is a record as the pages show it.
func shownRecord(r *record.Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "topic: %s\n", r.Topic)
	if r.Clock == record.SendTime {
		fmt.Fprintf(&b, "timestamp: of sending\n")
	} else {
		fmt.Fprintf(&b, "timestamp: %s\n", r.Timestamp.UTC().Format("2006-01-02T15:04:05.000Z"))
	}
	if r.Key == nil {
		fmt.Fprintf(&b, "no key\n")
	} else {
		fmt.Fprintf(&b, "key: %s\n", r.Key)
	}
	for _, h := range r.Headers {
		fmt.Fprintf(&b, "header %s: %s\n", h.Key, h.Value)
	}
	switch {
	case r.Value == nil:
		fmt.Fprintf(&b, "no value\n")
	case len(r.Value) > 0 && r.Value[0] == 0: // the registry's wire format
		fmt.Fprintf(&b, "value in hex:\n")
		for digits := hex.EncodeToString(r.Value); digits != ""; {
			n := min(len(digits), 96)
			fmt.Fprintf(&b, "  %s\n", digits[:n])
			digits = digits[n:]
		}
	default:
		fmt.Fprintf(&b, "value: %s\n", r.Value)
	}
	return b.String()
}

// unwrapped is a shown record whose lines may be broken in other places of a value in hex.
func unwrapped(shown string) string {
	return regexp.MustCompile(`\n  ([0-9a-f]+)`).ReplaceAllString(shown, "$1")
}

// registryOf is a registry that has the schema as the newest one of every subject, or
// registers the envelope's with the id 1.
func registryOf(schema string) http.Handler {
	registered := schema
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		subject := strings.Split(strings.TrimPrefix(r.URL.Path, "/subjects/"), "/")[0]
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/versions") {
			var posted struct{ Schema string }
			body, _ := io.ReadAll(r.Body)
			_ = json.Unmarshal(body, &posted)
			registered = posted.Schema
		}
		if registered == "" || !strings.HasPrefix(r.URL.Path, "/subjects/") && r.URL.Path != "/schemas/ids/1" {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"error_code": 40401, "message": "Subject not found."}`)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"subject": subject, "version": 1, "id": 1, "schema": registered})
	})
}
