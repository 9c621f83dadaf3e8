package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// tree is a node as Go values: strings for scalars with the kind in front.
func tree(n *node) any {
	if n == nil {
		return nil
	}
	switch n.kind {
	case sequence:
		items := []any{}
		for _, item := range n.items {
			items = append(items, tree(item))
		}
		return items
	case mapping:
		entries := map[string]any{}
		for _, e := range n.entries {
			entries[e.key] = tree(e.value)
		}
		return entries
	case text:
		return n.text
	}
	return n.kind.String() + " " + n.text
}

// Examples of the YAML 1.2 specification and of its test suite, as far as a
// configuration can hold them. The number is the example's or the suite's.
func TestYAML(t *testing.T) {
	type m = map[string]any
	type l = []any
	for name, c := range map[string]struct {
		text string
		want any
	}{
		"host and port in a flow":          {"kafka: {brokers: [localhost:9092, k2:9092]}", m{"kafka": m{"brokers": l{"localhost:9092", "k2:9092"}}}},
		"URL in a flow":                    {"[http://r:8081/a,b, a::b]", l{"http://r:8081/a", "b", "a::b"}},
		"2.1 sequence of scalars":          {"- Mark McGwire\n- Sammy Sosa\n", l{"Mark McGwire", "Sammy Sosa"}},
		"2.3 mapping to sequences":         {"american:\n- Boston\n- Detroit\nnational:\n  - New York\n", m{"american": l{"Boston", "Detroit"}, "national": l{"New York"}}},
		"2.6 mapping of mappings":          {"Mark: {hr: 65, avg: 0.278}\nSammy: {\n    hr: 63,\n    avg: 0.288\n  }\n", m{"Mark": m{"hr": "a whole number 65", "avg": "a number 0.278"}, "Sammy": m{"hr": "a whole number 63", "avg": "a number 0.288"}}},
		"2.10 anchor":                      {"hr:\n  - &SS Sammy Sosa\nrbi:\n  - *SS # again\n", m{"hr": l{"Sammy Sosa"}, "rbi": l{"Sammy Sosa"}}},
		"2.13 literal":                     {"--- |\n  \\//||\\/||\n  // ||  ||__\n", "\\//||\\/||\n// ||  ||__\n"},
		"2.14 folded":                      {"--- >\n  Mark McGwire's\n  year was crippled\n  by a knee injury.\n", "Mark McGwire's year was crippled by a knee injury.\n"},
		"2.17 quoted":                      {`{unicode: "Sosa did fine.\u263A", hex: "\x0d\x0a is \r\n", single: '"Howdy!" he cried.', quoted: ' # Not a ''comment''.'}`, m{"unicode": "Sosa did fine.☺", "hex": "\r\n is \r\n", "single": `"Howdy!" he cried.`, "quoted": " # Not a 'comment'."}},
		"2.18 plain over lines":            {"plain:\n  This unquoted scalar\n  spans many lines.\n", m{"plain": "This unquoted scalar spans many lines."}},
		"5.7 block scalars":                {"literal: |\n  some\n  text\nfolded: >\n  some\n  text\n", m{"literal": "some\ntext\n", "folded": "some text\n"}},
		"7.4 quoted keys":                  {"'implicit block key' : [\n  'implicit flow key' : value,\n ]", m{"implicit block key": l{m{"implicit flow key": "value"}}}},
		"7.10 plain characters":            {"- ::vector\n- \": - ()\"\n- Up, up, and away!\n- -123\n- http://example.com/foo#bar\n- [ ::vector, \": - ()\", \"Up, up and away!\", -123, http://example.com/foo#bar ]", l{"::vector", ": - ()", "Up, up, and away!", "a whole number -123", "http://example.com/foo#bar", l{"::vector", ": - ()", "Up, up and away!", "a whole number -123", "http://example.com/foo#bar"}}},
		"7.15 flow mappings":               {"- { one : two , three: four , }\n- {five: six,seven : eight}", l{m{"one": "two", "three": "four"}, m{"five": "six", "seven": "eight"}}},
		"8.2 indentation":                  {"- |\n detected\n- >\n \n  \n  # detected\n- |1\n  explicit\n", l{"detected\n", "\n\n# detected\n", " explicit\n"}},
		"8.4 chomping":                     {"strip: |-\n  text\nclip: |\n  text\nkeep: |+\n  text\n", m{"strip": "text", "clip": "text\n", "keep": "text\n"}},
		"1.2: no octal, yes or on":         {"{a: yes, b: on, c: off, d: no, e: y}", m{"a": "yes", "b": "on", "c": "off", "d": "no", "e": "y"}},
		"nothing":                          {"{a: ~, b: null, c: , d: ''}", m{"a": "nothing ~", "b": "nothing null", "c": "nothing ", "d": ""}},
		"a date is text":                   {"[2001-12-14, 2001-12-14t21:59:43Z]", l{"2001-12-14", "2001-12-14t21:59:43Z"}},
		"a time is text":                   {"[190:20:30, 1:2]", l{"190:20:30", "1:2"}},
		"Windows line ends":                {"a:\r\n  b: c\r\n", m{"a": m{"b": "c"}}},
		"directive":                        {"# a comment\n%YAML 1.2\n---\na: b\n...\n", m{"a": "b"}},
		"older directive":                  {"%YAML 1.1\n---\na: b\n", m{"a": "b"}},
		"adjacent value (C2DT)":            {`{"adjacent":value, "readable": value}`, m{"adjacent": "value", "readable": "value"}},
		"JSON":                             {`{"a":{"b":["c:1",true,-1.5e3,null]}}`, m{"a": m{"b": l{"c:1", "true or false true", "a number -1.5e3", "nothing null"}}}},
		"colon in a plain key (S7BG, 5T4)": {"a:b: c\n", m{"a:b": "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			root, err := parse([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if got := tree(root); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %#v\nwant %#v", got, c.want)
			}
		})
	}
}

// A file in flow style is one like any other.
func TestFlowStyle(t *testing.T) {
	c := mustLoad(t, "postgres: {dsn: postgres://app@db:5432/shop}\nkafka: {brokers: [localhost:9092]}\nhttp: {listen: 127.0.0.1:9188}\n")
	if c.Kafka.Brokers[0] != "localhost:9092" || c.Postgres.DSN.Reveal() != "postgres://app@db:5432/shop" {
		t.Errorf("%v, %s", c.Kafka.Brokers, c.Postgres.DSN.Reveal())
	}
}

// What is nested without end, large, or refers to itself again and again is refused
// at once.
func TestYAMLIsBounded(t *testing.T) {
	laughs := "a0: &a0 [x, x]\n"
	for i := 1; i < 30; i++ {
		n := string(rune('a'+i%26)) + string(rune('0'+i/26))
		before := string(rune('a'+(i-1)%26)) + string(rune('0'+(i-1)/26))
		laughs += n + ": &" + n + " [*" + before + ", *" + before + "]\n"
	}
	for name, text := range map[string]string{
		"lists":           strings.Repeat("[", 400_000),
		"mappings":        strings.Repeat("{a: ", 100_000),
		"closed lists":    strings.Repeat("[", 400_000) + strings.Repeat("]", 400_000),
		"blocks":          strings.Repeat("- ", 400_000),
		"keys":            strings.Repeat("? ", 400_000),
		"deep":            "a: " + strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1),
		"billion laughs":  laughs,
		"indented blocks": indented(1400),
	} {
		start := time.Now()
		if _, err := loadText(text); err == nil {
			t.Errorf("%s: no error", name)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
	}
}

func indented(depth int) string {
	var b strings.Builder
	for i := range depth {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}
