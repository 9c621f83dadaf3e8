package sink

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"outboxd/decoder"
)

// Schemas are the JSON Schemas that payloads have to fit, by event type. See
// value.schema in the configuration. They do not change once loaded.
type Schemas map[string]*jsonschema.Schema

// LoadSchema reads a JSON Schema: draft 2020-12, or what its $schema says. What
// it refers to may be in other files, not on the network.
func LoadSchema(file string) (*jsonschema.Schema, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	schema, err := c.Compile(path)
	if err != nil {
		return nil, errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	return schema, nil
}

// check returns how the event's payload does not fit its type's schema. A type
// without one passes.
func (s Schemas) check(ev *decoder.Event) error {
	schema := s[string(ev.Values[decoder.Type])]
	if schema == nil {
		return nil
	}
	payload, err := jsonPayload(ev)
	if err != nil {
		return fmt.Errorf("%w, and type %q has a schema (value.schema)", err, ev.Values[decoder.Type])
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(payload))
	if err != nil {
		return fmt.Errorf("its payload is not JSON: %w", err)
	}
	err = schema.Validate(value)
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return err
	}
	return fmt.Errorf("its payload does not fit the schema of type %q (value.schema): %s", ev.Values[decoder.Type], violations(invalid))
}

// maxViolations is how many of the rules that a payload breaks are shown.
const maxViolations = 3

var english = message.NewPrinter(language.English)

// violations names the places in the payload and the rules that they break.
func violations(err *jsonschema.ValidationError) string {
	var all []string
	var visit func(*jsonschema.ValidationError)
	visit = func(e *jsonschema.ValidationError) {
		for _, cause := range e.Causes {
			visit(cause)
		}
		if len(e.Causes) > 0 {
			return
		}
		_, location, _ := strings.Cut(e.SchemaURL, "#")
		all = append(all, fmt.Sprintf("at %q: %s (rule %s)", pointer(e.InstanceLocation), e.ErrorKind.LocalizedString(english),
			location+pointer(e.ErrorKind.KeywordPath())))
	}
	visit(err)
	more := ""
	if n := len(all) - maxViolations; n > 0 {
		all, more = all[:maxViolations], fmt.Sprintf("; and %d more", n)
	}
	return strings.Join(all, "; ") + more
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
