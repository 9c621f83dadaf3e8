package format

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"outboxd/decoder"
)

// Schemas are the JSON Schemas that payloads have to fit, by event type. See
// value.schema in the configuration.
type Schemas map[string]*Schema

// Schema is a JSON Schema whose validation is bounded in time and memory, whatever
// the payload: see check. It belongs to one goroutine.
type Schema struct {
	rules *jsonschema.Schema
	// misfit is {"not": rules}. A payload that fits it does not fit rules, and it is
	// decided without an error for each violation.
	misfit *jsonschema.Schema
	// left is how much work the validation at hand may still cost.
	left int
}

// misfitURL is the name of a schema's misfit; nothing is loaded from it.
const misfitURL = "https://outboxd.invalid/misfit"

// LoadSchema reads a JSON Schema: draft 2020-12, or what its $schema says. What
// it refers to may be in other files, not on the network.
func LoadSchema(file string) (*Schema, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	s := new(Schema)
	budgeted := s.meter(c)
	if s.rules, err = c.Compile(path); err == nil {
		ref := (&url.URL{Scheme: "file", Path: path}).String()
		if err = c.AddResource(misfitURL, map[string]any{"not": map[string]any{"$ref": ref}}); err == nil {
			s.misfit, err = c.Compile(misfitURL)
		}
	}
	if err != nil {
		return nil, errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	budgeted()
	return s, nil
}

// errWork ends a validation that has used up its work.
var errWork = errors.New("its payload costs too much work to validate")

// meter makes every schema that c compiles charge for its use, once the function
// that it returns is called. The library (6.0.3) has no limit of its own. What it
// does first with a value, before it looks into it, is the schema's format, so that
// is where the work is counted, and cut by a panic. A vocabulary is how to learn
// of all the schemas there are.
func (s *Schema) meter(c *jsonschema.Compiler) (install func()) {
	all := make(map[*jsonschema.Schema]bool)
	c.AssertVocabs()
	c.RegisterVocabulary(&jsonschema.Vocabulary{
		URL: "https://outboxd.invalid/meter",
		Compile: func(ctx *jsonschema.CompilerContext, _ map[string]any) (jsonschema.SchemaExt, error) {
			all[ctx.Enqueue(nil)] = true
			return nil, nil
		},
	})
	return func() {
		for schema := range all {
			format := jsonschema.Format{Validate: func(any) error { return nil }}
			if schema.Format != nil {
				format = *schema.Format
			}
			validate, unique := format.Validate, schema.UniqueItems
			format.Validate = func(v any) error {
				if s.left -= work(v, unique); s.left < 0 {
					panic(errWork)
				}
				return validate(v)
			}
			schema.Format = &format
		}
	}
}

// work is what it costs to look at a value by one schema, without what is inside
// its members: about 0.3 µs a unit.
func work(v any, unique bool) int {
	switch v := v.(type) {
	case map[string]any:
		return 1 + len(v)
	case []any:
		n := 1 + len(v)
		if unique && len(v) > 0 {
			switch v[0].(type) {
			case map[string]any, []any:
				// Items can be made that differ and have one hash, so that
				// each is compared with each.
				n += len(v) * len(v) / 32
			}
		}
		return n
	case string:
		return 1 + len(v)/16 // a pattern reads all of it
	}
	return 1
}

// What a validation may cost: more than any schema makes of a payload that it was
// written for, and seconds at the most.
const (
	minWork, workPerByte, maxWork = 500_000, 8, 16_000_000
	// detailMemory bounds the memory of violations, each of which names its place
	// in the payload.
	detailMemory = 64 << 20
)

// check returns how a payload, which is valid JSON, does not fit the schema.
func (s *Schema) check(payload []byte) (err error) {
	depth, err := checkJSON(payload)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(payload))
	if err != nil {
		return fmt.Errorf("its payload is not JSON: %s", decoder.Cut(err.Error()))
	}
	fits, err := s.validate(s.misfit, value, min(minWork+workPerByte*len(payload), maxWork))
	if err != nil {
		return err
	}
	if fits != nil {
		return nil
	}
	const violation, step = 200, 16
	found, err := s.validate(s.rules, value, detailMemory/(violation+step*depth))
	var invalid *jsonschema.ValidationError
	switch {
	case err != nil:
		return errors.New("too many violations to list")
	case errors.As(found, &invalid):
		return errors.New(violations(invalid))
	}
	return found
}

// validate returns what the library finds, or that it did not come to an end: a
// fault in it must not end the process at every start.
func (s *Schema) validate(schema *jsonschema.Schema, value any, work int) (found, err error) {
	defer func() {
		switch r := recover(); r {
		case nil:
		case error(errWork):
			err = errWork
		default:
			err = fmt.Errorf("its payload cannot be validated: %s", decoder.Cut(fmt.Sprint(r)))
		}
	}()
	s.left = work
	return schema.Validate(value), nil
}

// errNotShown stands for what an error would quote of a payload.
var errNotShown = errors.New("how is not shown, since value.mask is set")

// check returns how the event's payload does not fit its type's schema; with masked
// nothing of the payload is shown. A type without a schema passes.
func (s Schemas) check(ev *decoder.Event, masked bool) error {
	schema := s[string(ev.Values[decoder.Type])]
	if schema == nil {
		return nil
	}
	typ := decoder.Excerpt(ev.Values[decoder.Type])
	payload, err := JSONPayload(ev)
	if err != nil {
		return fmt.Errorf("%w, and type %s has a schema (value.schema)", err, typ)
	}
	if err := schema.check(payload); err != nil {
		if masked {
			err = errNotShown
		}
		return fmt.Errorf("its payload does not fit the schema of type %s (value.schema): %w", typ, err)
	}
	return nil
}

// maxViolations is how many of the rules that a payload breaks are shown.
const maxViolations = 3

var english = message.NewPrinter(language.English)

// violations names the places in the payload and the rules that they break.
func violations(err *jsonschema.ValidationError) string {
	var shown []string
	n := 0
	var visit func(*jsonschema.ValidationError)
	visit = func(e *jsonschema.ValidationError) {
		for _, cause := range e.Causes {
			visit(cause)
		}
		if len(e.Causes) > 0 {
			return
		}
		if n++; n > maxViolations {
			return
		}
		_, location, _ := strings.Cut(e.SchemaURL, "#")
		shown = append(shown, fmt.Sprintf("at %s: %s (rule %s)", decoder.Excerpt(pointer(e.InstanceLocation)),
			decoder.Cut(e.ErrorKind.LocalizedString(english)), decoder.Cut(location+pointer(e.ErrorKind.KeywordPath()))))
	}
	visit(err)
	more := ""
	if n > maxViolations {
		more = fmt.Sprintf("; and %d more", n-maxViolations)
	}
	return strings.Join(shown, "; ") + more
}

// pointer is a JSON pointer.
func pointer(steps []string) string {
	var b strings.Builder
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	for _, s := range steps {
		b.WriteByte('/')
		b.WriteString(escape.Replace(s))
	}
	return b.String()
}
