package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/configuration-reference.md from the schema")

const referencePath = "../../docs/configuration-reference.md"

// The reference is what the schema and its comments say.
func TestReference(t *testing.T) {
	text := referencePage(t)
	if *update {
		if err := os.WriteFile(referencePath, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(referencePath)
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != text {
		t.Error("docs/configuration-reference.md is stale; run: go test ./internal/config -run TestReference -update")
	}
	// A key that is built has an entry with its default and its variable.
	for k := range schema().leaves() {
		if k.isUnbuilt() {
			continue
		}
		entry, found := strings.CutPrefix(text[max(0, strings.Index(text, "\n### "+k.path+"\n")):], "\n### "+k.path+"\n")
		entry, _, _ = strings.Cut(entry, "\n#")
		if !found || k.isScalar() && !strings.Contains(entry, "`"+k.variable+"`") || k.deflt != "" && !strings.Contains(entry, "`"+k.deflt+"`") || strings.Count(entry, "\n") < 3 {
			t.Errorf("%s: the entry lacks something:\n%s", k.path, entry)
		}
	}
}

// rules are the checks in words, for the reference. Where a check has none the meaning
// says it all.
var rules = map[string]string{
	"broker":             "host:port",
	"client id":          "at most 256 bytes",
	"column":             "at most 63 bytes",
	"column name":        "1 to 63 bytes",
	"glob":               "`*` and `?` are wildcards; without brackets, braces and backslashes",
	"identifier":         "1 to 63 bytes",
	"key":                "a field of `outbox.columns` other than payload, `{column:NAME}`, or `none`",
	"listen":             "host:port",
	"registry":           "an http or https URL without credentials, query and fragment",
	"regex":              "a regular expression",
	"replication factor": "1 to 32767, or -1",
	"rewind":             "at most 3650d or 1024TiB",
	"rule topic":         "a topic with placeholders, or empty",
	"slot":               "1 to 63 of a-z, 0-9 and _",
	"subject":            "not empty",
	"template":           "1 to 249 of a-z, A-Z, 0-9, `.`, `_`, `-`, and placeholders",
	"token":              "letters, digits and `-._~+/`, then `=`",
	"topic":              "1 to 249 of a-z, A-Z, 0-9, `.`, `_`, `-`",
	"transactional id":   "at most 16382 bytes",
}

func TestRulesOfTheReference(t *testing.T) {
	for name := range rules {
		if checks[name] == nil {
			t.Errorf("there is no check %q", name)
		}
	}
}

// referencePage is the whole page.
func referencePage(t *testing.T) string {
	comments := commentsOf(t)
	var b strings.Builder
	b.WriteString(`# Configuration reference

Every key, from the schema of the program (` + "`go test ./internal/config -run TestReference -update`" + ` writes this page, and a test
fails when it is stale). The rules for all keys, secrets and the DSN's keywords are in [configuration.md](configuration.md); an annotated
file with every default is printed by ` + "`outboxd config --example`" + `.

Durations are written ` + "`100ms`, `30s`, `24h` or `7d`" + `, sizes ` + "`64MiB`, `500KB` or `1000000`" + `.
`)
	var unbuilt []string
	for _, group := range schema().keys {
		if group.isUnbuilt() {
			unbuilt = append(unbuilt, group.path)
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", group.path, comments.of(group))
		for k := range group.leaves() {
			if k.isUnbuilt() {
				unbuilt = append(unbuilt, k.path)
				continue
			}
			writeKey(&b, comments, k)
		}
	}
	if len(unbuilt) > 0 {
		fmt.Fprintf(&b, "\n## Not built yet\n\nThese are refused by name: %s.\n", strings.Join(unbuilt, ", "))
	}
	return b.String()
}

func writeKey(b *strings.Builder, comments comments, k *key) {
	fmt.Fprintf(b, "\n### %s\n\n", k.path)
	facts := []string{form(k)}
	switch {
	case k.required:
		facts = append(facts, "required")
	case k.deflt != "":
		facts = append(facts, "default `"+k.deflt+"`")
	case k.typ.Kind() == reflect.Bool:
		facts = append(facts, "default `false`")
	default:
		facts = append(facts, "empty by default")
	}
	if k.isScalar() || k.isTextList() {
		facts = append(facts, "`"+k.variable+"`")
	}
	b.WriteString(strings.Join(facts, "; ") + "\n\n" + comments.of(k) + "\n")
	if words := slices.DeleteFunc(slices.Clone(k.unbuilt), func(word string) bool { return word == unbuiltKey }); len(words) > 0 {
		fmt.Fprintf(b, "Not built yet, and refused: `%s`.\n", strings.Join(words, "`, `"))
	}
	// The members of a list's entries.
	if k.typ.Kind() == reflect.Slice && k.typ.Elem().Kind() == reflect.Struct && k.typ != reflect.TypeFor[Pairs]() {
		b.WriteByte('\n')
		for _, member := range keysOf(k.typ.Elem(), &key{}) {
			need := "optional"
			if member.required {
				need = "required"
			}
			fmt.Fprintf(b, "- `%s` (%s, %s): %s\n", member.name, formOf(member, k.typ.Elem().FieldByIndex(member.index)), need, comments.ofField(k.typ.Elem(), member.index[0]))
		}
	}
}

// form says what a key's value looks like, with its bounds.
func form(k *key) string {
	return formOf(k, reflect.TypeFor[Config]().FieldByIndex(k.index))
}

func formOf(k *key, field reflect.StructField) string {
	text := map[bool]string{true: "text (a secret)", false: strings.Split(want(k.typ), " such as ")[0]}[k.isSecret()]
	if words := k.builtWords(); k.enum != nil {
		for i, word := range words {
			words[i] = "`" + word + "`"
			if word == "" {
				words[i] = "empty"
			}
		}
		text = strings.Join(words, " or ")
		if len(words) > 2 {
			text = strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
		}
	}
	switch {
	case k.min != "" && k.max != "":
		text += ", " + k.min + " to " + k.max
	case k.min != "":
		text += ", at least " + k.min
	case k.max != "":
		text += ", at most " + k.max
	}
	if rule := rules[field.Tag.Get("check")]; rule != "" {
		text += " (" + rule + ")"
	}
	return text
}

// comments are the doc comments of this package's structs and of their fields.
type comments struct {
	types  map[string]string
	fields map[string]string // Type.Field
}

func commentsOf(t *testing.T) comments {
	t.Helper()
	found := comments{types: map[string]string{}, fields: map[string]string{}}
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			general, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range general.Specs {
				typ, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				found.types[typ.Name.Name] = general.Doc.Text()
				if of, ok := typ.Type.(*ast.StructType); ok {
					for _, field := range of.Fields.List {
						for _, name := range field.Names {
							found.fields[typ.Name.Name+"."+name.Name] = field.Doc.Text()
						}
					}
				}
			}
		}
	}
	return found
}

// of returns the comment of a key's field, in the words of the file.
func (c comments) of(k *key) string {
	parent := reflect.TypeFor[Config]()
	if up := k.index[:len(k.index)-1]; len(up) > 0 {
		parent = parent.FieldByIndex(up).Type
	}
	return c.ofField(parent, k.index[len(k.index)-1])
}

// ofField returns the first paragraph of a field's comment, with the names of keys in
// place of Go's, and without the default, which stands elsewhere.
func (c comments) ofField(parent reflect.Type, index int) string {
	field := parent.Field(index)
	text, _, _ := strings.Cut(c.fields[parent.Name()+"."+field.Name], "\n\n")
	text = strings.Join(strings.Fields(text), " ")
	if rest, ok := strings.CutPrefix(text, field.Name+" "); ok {
		// "Slot is the …" becomes "The …", "Create makes …" "Makes …", and "ClientID
		// of …" keeps its name.
		switch first, after, _ := strings.Cut(rest, " "); first {
		case "is", "are":
			text = after
		case "of", "for", "to":
			text = strings.ReplaceAll(field.Tag.Get("yaml"), "_", " ") + " " + rest
		default:
			text = rest
		}
		// A word of the file keeps its letters.
		if first, _, _ := strings.Cut(text, " "); !slices.Contains(strings.Split(field.Tag.Get("enum"), ","), strings.TrimRight(first, ",:")) {
			text = strings.ToUpper(text[:1]) + text[1:]
		}
	}
	for i := range parent.NumField() {
		sibling := parent.Field(i)
		// Kafka and Debezium in a sentence are the products.
		if name := sibling.Tag.Get("yaml"); name != "" && sibling.Name != "Kafka" && sibling.Name != "Debezium" {
			text = regexp.MustCompile(`([a-z,(] )`+sibling.Name+`\b`).ReplaceAllString(text, "$1`"+name+"`")
		}
	}
	for _, known := range []string{" It has no default.", " Defaults to none.", " Defaults to any.", ` Defaults to "".`, " Defaults to " + field.Tag.Get("default") + "."} {
		text = strings.TrimSuffix(text, known)
	}
	return text
}
