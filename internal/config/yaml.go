package config

import (
	"errors"
	"regexp"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
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
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, newSyntaxError(err)
	}
	c := converter{anchors: map[string]*node{}}
	for _, document := range file.Docs {
		if document.Body == nil || document.Body.Type() == ast.DirectiveType {
			continue // %YAML 1.2
		}
		if root != nil {
			line := document.Body.GetToken().Position.Line
			return nil, &syntaxError{line: line, message: "a second YAML document; the configuration is one document"}
		}
		root = c.node(document.Body)
	}
	return root, nil
}

// newSyntaxError takes the position and the plain message. The error's own text
// shows the source around it, and even the message can quote some of it; both
// may be a password.
func newSyntaxError(err error) *syntaxError {
	var syntax *yaml.SyntaxError
	if !errors.As(err, &syntax) || syntax.Token == nil || syntax.Token.Position == nil {
		return &syntaxError{message: "cannot be read as YAML"}
	}
	return &syntaxError{
		line:    syntax.Token.Position.Line,
		column:  syntax.Token.Position.Column,
		message: "not valid YAML: " + quoted.ReplaceAllString(syntax.Message, "…"),
	}
}

// quoted matches what a message of the parser quotes of the source.
var quoted = regexp.MustCompile(`"([^"\\]|\\.)*"`)

// converter makes nodes of the parser's tree. It walks in the document's order,
// so that an alias means the last anchor of its name before it.
type converter struct {
	anchors map[string]*node
}

func (c *converter) node(from ast.Node) *node {
	if from == nil {
		return &node{kind: null}
	}
	to := &node{line: from.GetToken().Position.Line}
	switch from := from.(type) {
	case *ast.MappingNode:
		to.kind = mapping
		for _, value := range from.Values {
			to.entries = append(to.entries, c.entry(value))
		}
	case *ast.MappingValueNode:
		to.kind = mapping
		to.entries = []entry{c.entry(from)}
	case *ast.SequenceNode:
		to.kind = sequence
		for _, value := range from.Values {
			to.items = append(to.items, c.node(value))
		}
	case *ast.AnchorNode:
		to = c.node(from.Value)
		c.anchors[from.Name.GetToken().Value] = to
	case *ast.AliasNode:
		if anchor := c.anchors[from.Value.GetToken().Value]; anchor != nil {
			return anchor
		}
		to.text = "a YAML alias without an anchor before it; quote a value that begins with *"
	case *ast.TagNode:
		to.text = "YAML tags are not supported; quote a value that begins with !"
	case *ast.StringNode:
		to.kind, to.text = text, from.Value
	case *ast.LiteralNode:
		to.kind, to.text = text, from.Value.Value
	case *ast.IntegerNode:
		to.kind, to.text = integer, from.Token.Value
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		to.kind, to.text = float, from.GetToken().Value
	case *ast.BoolNode:
		to.kind, to.text = boolean, from.Token.Value
	case *ast.NullNode:
		to.kind, to.text = null, from.Token.Value
	default:
		to.text = "this form of YAML is not supported"
	}
	return to
}

func (c *converter) entry(from *ast.MappingValueNode) entry {
	token := from.Key.GetToken()
	e := entry{key: token.Value, line: token.Position.Line, value: c.node(from.Value)}
	switch from.Key.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
	case *ast.MergeKeyNode:
		e.value = &node{line: e.line, text: "YAML merge keys are not supported; write the keys out"}
	default:
		e.value = &node{line: e.line, text: "only plain YAML keys are supported"}
	}
	return e
}
