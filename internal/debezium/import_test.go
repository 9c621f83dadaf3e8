package debezium

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden compares what files become with what they became when someone last
// looked. cmd/outboxd loads them as configurations.
func TestGolden(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.json")
	properties, _ := filepath.Glob("testdata/*.properties")
	for _, file := range append(files, properties...) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			in, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(file, filepath.Ext(file)) + ".yaml"
			got, err := Import(in)
			if err != nil {
				golden = strings.TrimSuffix(golden, ".yaml") + ".errors"
				got = []byte(err.Error() + "\n")
				if bytes.Contains(got, []byte("topsecret")) {
					t.Errorf("the errors show a secret:\n%s", got)
				}
			}
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("it is not %s (%v), but\n%s", golden, err, got)
			}
		})
	}
}

// base is a connector that can be imported.
const base = `{"connector.class": "io.debezium.connector.postgresql.PostgresConnector", "plugin.name": "pgoutput",
	"database.hostname": "db", "database.user": "u", "database.dbname": "d", "topic.prefix": "p", "table.include.list": "public.outbox",
	"transforms": "o", "transforms.o.type": "io.debezium.transforms.outbox.EventRouter",
	"key.converter": "org.apache.kafka.connect.storage.StringConverter", "value.converter": "org.apache.kafka.connect.storage.StringConverter"`

// TestOnlyHonouredValuesAreTaken gives each option of the table a value that is not
// Debezium's default: it is refused, and named.
func TestOnlyHonouredValuesAreTaken(t *testing.T) {
	if _, err := Import([]byte(base + "}")); err != nil {
		t.Fatal(err)
	}
	for name := range only {
		_, err := Import([]byte(strings.Replace(base, `"`+name+`":`, `"x":`, 1) + `, "` + name + `": "something-else"}`))
		if err == nil || !regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(name)+`: `).MatchString(err.Error()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name := range harmless {
		name = strings.ReplaceAll(name, "*", "x")
		if out, err := Import([]byte(base + `, "` + name + `": "1"}`)); err != nil || !bytes.Contains(out, []byte("# - "+name)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"nonsense", "transforms.o.table.field.event.typ", "database.nonsense", "producer.override.nonsense"} {
		var problems *Error
		if _, err := Import([]byte(base + `, "` + name + `": "1"}`)); !errors.As(err, &problems) || len(problems.Problems) != 1 || problems.Problems[0] != (Problem{name, "unknown option"}) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRegex(t *testing.T) {
	for pattern, reason := range map[string]string{
		`(?<routedByValue>.*)`: "", `[a-z]+\.([^.]*)\Q.*\E$`: "", `(?i)(a|b){2,3}?\p{L}`: "", `[^a-c\]]+`: "",
		`(?=a)b`: "look-around", `a(?!b)`: "look-around", `(?<=a)b`: "look-around", `(?<!a)b`: "look-around",
		`(a)\1`: "backreference", `(?<n>a)\k<n>`: "backreference",
		`a++`: "possessive", `a*+b`: "possessive", `a?+`: "possessive", `a{1,2}+`: "possessive",
		`(?>a)`: "independent", `[a&&b]`: "intersection", `[a[b]]`: "inside another", `\h`: `\h`, `\v`: `\v`, `\bx`: `\b`,
		`(?m)a`: "flags", `(?U)a`: "flags", `a$b`: "$", `(`: "missing closing", `\`: "backslash", `[]a]`: "begins with ]",
	} {
		err := goRegex(pattern)
		if reason == "" && err != nil || reason != "" && (err == nil || !strings.Contains(err.Error(), reason)) {
			t.Errorf("%s: %v, want %q", pattern, err, reason)
		}
	}
	for _, test := range []struct{ in, pattern, want, says string }{
		{"a.${x}", "(?<x>.*)", "a.${x}", ""},
		{"$1-$12-$0", "(a)", "${1}-${1}2-${0}", ""},
		{`\$1\\`, "(a)", `$$1\`, ""},
		{"$2", "(a)", "", "group 2"},
		{"${y}", "(?<x>a)", "", "y"},
		{"$", "a", "", "names no group"},
	} {
		got, err := goReplacement(test.in, test.pattern)
		if got != test.want || (err != nil) != (test.says != "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %q, %v", test.in, got, err)
		}
	}
}

// Each filter is looked at, whatever is wrong with another, and each time in the
// same way.
func TestFilters(t *testing.T) {
	const file = base + `, "schema.include.list": "(", "database.include.list": "other", "schema.exclude.list": "public", "database.exclude.list": "e"}`
	const want = `database.include.list: it leaves out the outbox, public.outbox
schema.exclude.list: it leaves out the outbox, public.outbox
schema.include.list: "(" is not a pattern that can be checked`
	for range 50 {
		if _, err := Import([]byte(file)); err == nil || err.Error() != want {
			t.Fatalf("%v\nwant\n%s", err, want)
		}
	}
	// Which table they are to let through is not known.
	var problems *Error
	_, err := Import([]byte(strings.Replace(file, "public.outbox", "public.a,public.b", 1)))
	if !errors.As(err, &problems) || len(problems.Problems) != 1 || problems.Problems[0].Option != "table.include.list" {
		t.Error(err)
	}
}

func TestProperties(t *testing.T) {
	got, err := parseProperties("# c\n! c\na = b \\\n   c\nd:e\\:f\n  g h\\u00e9\ni\nj\\=k==l\\\\\n")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "b c", "d": "e:f", "g": "hé", "i": "", "j=k": `=l\`}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%q is %q, want %q", name, got[name], value)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%q", got)
	}
}
