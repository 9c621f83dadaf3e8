package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

var (
	block = regexp.MustCompile("(?ms)^ *```([a-z#]+)\n(.*?)^ *```$")
	// What a page leaves to the reader. No other region is there to connect to.
	sampleOf    = map[string]string{"copy_data = false)": "copy_data = false, connect = false)", "$topic": "'t'", "$partition": "0", "$position": "'0000000001507C60-00000001'", "$id": "'1'"}
	placeholder = regexp.MustCompile(`\?|%s`)
	inCode      = regexp.MustCompile(`"((?:INSERT|UPDATE|DELETE|SELECT) (?:[^"\\]|\\")*)"`)
)

// beforePage has what a page takes for granted beside the tables of beforePages.
var beforePage = map[string]string{
	"README.md": `CREATE TABLE orders (id int PRIMARY KEY, status text)`,
	"writing-events.md": `CREATE TABLE orders (id text PRIMARY KEY, cents bigint, status text); DROP TABLE outbox;
		CREATE TABLE outbox (id uuid DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb,
			created_at timestamptz NOT NULL DEFAULT now()) PARTITION BY RANGE (created_at);
		CREATE TABLE outbox_default PARTITION OF outbox DEFAULT;
		CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert')`,
	"consuming-events.md": ``, // it has its tables itself
	"metrics.md":          ``,
	"sizing.md":           ``,
	"formats.md":          `DROP TABLE outbox`,
	"sagas.md":            `CREATE TABLE orders (id int PRIMARY KEY, status text); CREATE TABLE inbox (id text PRIMARY KEY)`,
	"multi-region.md":     ``,
	"debezium.md":         `SELECT pg_create_logical_replication_slot('try_outboxd', 'pgoutput')`,
}

// The server takes the SQL of the manual, also that inside the examples in other
// languages. Runbooks are held beside a running connector, in docker/validate.
func TestSQLOfTheManual(t *testing.T) {
	t.Parallel()
	ran := map[string]int{}
	for page, before := range beforePage {
		path := "../docs/" + page
		if page == "README.md" {
			path = "../README.md"
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s := newScenario(t, nil, nil)
		s.exec(`DROP TABLE outbox; CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, aggregateid text NOT NULL,
			type text NOT NULL, payload jsonb, created_at timestamptz NOT NULL DEFAULT now())`)
		if before != "" {
			s.exec(before)
		}
		db := s.connect()
		blocks := block.FindAllStringSubmatch(string(content), -1)
		// Tables first: a page shows them after what uses them.
		for _, creates := range []bool{true, false} {
			for _, b := range blocks {
				if b[1] != "sql" || strings.HasPrefix(strings.TrimSpace(b[2]), "CREATE TABLE ") != creates {
					continue
				}
				ran["sql"]++
				for statement := range strings.SplitSeq(strings.TrimSpace(b[2]), ";\n") {
					for name, value := range sampleOf {
						statement = strings.ReplaceAll(statement, name, value)
					}
					if _, err := db.Exec(t.Context(), statement); err != nil {
						t.Errorf("%s: %s: %v", path, statement, err)
					}
				}
			}
		}
		for _, b := range blocks {
			if b[1] != "java" && b[1] != "python" && b[1] != "csharp" {
				continue
			}
			for _, m := range inCode.FindAllStringSubmatch(b[2], -1) {
				ran[b[1]]++
				n := 0
				statement := placeholder.ReplaceAllStringFunc(strings.ReplaceAll(m[1], `\"`, `"`), func(string) string {
					n++
					return fmt.Sprintf("$%d", n)
				})
				if _, err := db.Prepare(t.Context(), "", statement); err != nil {
					t.Errorf("%s: %s: %v", path, statement, err)
				}
			}
		}
	}
	if ran["sql"] < 10 || ran["java"] < 3 || ran["python"] < 3 || ran["csharp"] < 2 {
		t.Errorf("only %v were found", ran)
	}
}
