package config

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"
)

// node is a YAML value with aliases resolved, reduced to what a configuration
// can hold.
type node struct {
	kind    kind
	text    string  // of a scalar; the complaint of an unsupported value, which quotes nothing: it may be a password
	line    int     // where it begins
	entries []entry // of a mapping, in the file's order, duplicates included
	items   []*node // of a sequence
}

// entry is one key of a mapping, with its value.
type entry struct {
	key   string
	line  int
	value *node
}

type kind int

const (
	unsupported kind = iota
	null
	text
	integer
	float
	boolean
	sequence
	mapping
)

// String returns the kind as a message calls it.
func (k kind) String() string {
	return [...]string{"an unsupported value", "nothing", "text", "a whole number", "a number", "true or false", "a list", "a mapping"}[k]
}

// syntaxError is malformed YAML.
type syntaxError struct {
	line, column int
	message      string
}

func (e *syntaxError) Error() string { return e.message }

// maxDepth is how deep a configuration may be nested: its keys need five.
const maxDepth = 100

// parse reads one YAML document. The node is nil for an empty one; an error is
// a *syntaxError.
func parse(data []byte) (root *node, err error) {
	// The parser is not ours, and what it reads was typed by people: a panic in
	// it must not look like a crash of the connector.
	defer func() {
		if recover() != nil {
			root, err = nil, &syntaxError{message: "cannot be read as YAML"}
		}
	}()
	loader, err := yaml.NewLoader(bytes.NewReader(version12.ReplaceAll(data, []byte("${1}%YAML 1.1"))), yaml.WithPlugin(limits{}))
	if err != nil {
		return nil, newSyntaxError(err)
	}
	for {
		var document yaml.Node
		if err := loader.Load(&document); errors.Is(err, io.EOF) {
			return root, nil
		} else if err != nil {
			return nil, newSyntaxError(err)
		}
		if root != nil {
			return nil, &syntaxError{line: document.Content[0].Line, message: "a second YAML document; the configuration is one document"}
		}
		c := converter{}
		if root = c.node(document.Content[0]); root.kind == null && root.text == "" {
			root = nil
		}
	}
}

// version12 is the directive of YAML 1.2, which the parser reads but for its name.
var version12 = regexp.MustCompile(`\A((?:[ \t]*(?:#[^\n]*)?\r?\n)*)%YAML 1\.2`)

// limits bound what the parser does for a file that no one meant.
type limits struct{}

func (limits) CheckDepth(depth int, _ *yaml.DepthContext) error {
	if depth > maxDepth {
		return errors.New("nested too deep")
	}
	return nil
}

// CheckAlias allows any number: an alias is one node here, and not a copy.
func (limits) CheckAlias(int, int) error { return nil }

// newSyntaxError takes the position and the plain message. What the message quotes
// of the source may be a password.
func newSyntaxError(err error) *syntaxError {
	var syntax *yaml.LoadError
	if !errors.As(err, &syntax) {
		return &syntaxError{message: "cannot be read as YAML"}
	}
	if strings.HasPrefix(syntax.Message, "unknown anchor") {
		return &syntaxError{line: syntax.Mark.Line, column: syntax.Mark.Column,
			message: "a YAML alias without an anchor before it; quote a value that begins with *"}
	}
	message := quoted.ReplaceAllString(syntax.Message, "…")
	if syntax.ContextMsg != "" {
		message = quoted.ReplaceAllString(syntax.ContextMsg, "…") + ": " + message
	}
	// What is missing is noticed where the file ends, and looked for where it began.
	mark := syntax.Mark
	if syntax.ContextMark.Line > 0 {
		mark = syntax.ContextMark
	}
	return &syntaxError{line: mark.Line, column: mark.Column, message: "not valid YAML: " + message}
}

// quoted matches what a message of the parser may quote of the source.
var quoted = regexp.MustCompile("\"([^\"\\\\]|\\\\.)*\"|`[^`]*`|'[^',\\]\\[{}]{2,}'")

// converter makes nodes of the parser's tree. An alias is the node of its anchor;
// open are the anchors that are being read, which an alias in them cannot mean.
type converter struct {
	nodes map[*yaml.Node]*node
	open  map[*yaml.Node]bool
}

func (c *converter) node(from *yaml.Node) *node {
	to := &node{line: from.Line}
	if from.Anchor != "" {
		if c.nodes == nil {
			c.nodes, c.open = map[*yaml.Node]*node{}, map[*yaml.Node]bool{}
		}
		c.open[from] = true
		defer func() { c.nodes[from], c.open[from] = to, false }()
	}
	switch {
	case from.Kind == yaml.AliasNode && c.open[from.Alias]:
		to.text = "a YAML alias of a value that it is a part of"
	case from.Kind == yaml.AliasNode:
		return c.nodes[from.Alias]
	case from.Style&yaml.TaggedStyle != 0:
		to.text = "YAML tags are not supported; quote a value that begins with !"
	case from.Kind == yaml.MappingNode:
		to.kind = mapping
		for i := 0; i+1 < len(from.Content); i += 2 {
			to.entries = append(to.entries, c.entry(from.Content[i], from.Content[i+1]))
		}
	case from.Kind == yaml.SequenceNode:
		to.kind = sequence
		for _, item := range from.Content {
			to.items = append(to.items, c.node(item))
		}
	case from.Kind == yaml.ScalarNode:
		to.kind, to.text = scalarKind(from), from.Value
	default:
		to.text = "this form of YAML is not supported"
	}
	return to
}

// scalarKind goes by YAML 1.2's core schema, in which yes is text and so is a date.
func scalarKind(from *yaml.Node) kind {
	switch from.ShortTag() {
	case "!!null":
		return null
	case "!!bool":
		return boolean
	case "!!int":
		return integer
	case "!!float":
		return float
	}
	return text
}

func (c *converter) entry(key, value *yaml.Node) entry {
	e := entry{key: key.Value, line: key.Line, value: c.node(value)}
	switch {
	case key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge":
		e.value = &node{line: e.line, text: "YAML merge keys are not supported; write the keys out"}
	case key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
		e.value = &node{line: e.line, text: "only plain YAML keys are supported"}
	}
	return e
}
