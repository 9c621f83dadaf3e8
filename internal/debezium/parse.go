package debezium

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// options are a connector's options as Kafka Connect has them. names says how the
// file spells an option that it spells otherwise.
type options struct {
	values map[string]string
	names  map[string]string
	server bool // Debezium Server's properties
}

// parse reads the file: JSON as Connect's REST interface takes it, its bare
// config, or the properties of Debezium Server.
func parse(file []byte) (*options, error) {
	file = bytes.TrimSpace(bytes.TrimPrefix(file, []byte("\ufeff")))
	if len(file) == 0 {
		return nil, errors.New("the file is empty")
	}
	if !utf8.Valid(file) {
		return nil, errors.New("the file is not UTF-8")
	}
	if file[0] == '{' {
		return parseJSON(file)
	}
	return parseServer(file)
}

func parseJSON(file []byte) (*options, error) {
	var fields map[string]json.RawMessage
	if err := unmarshal(file, &fields); err != nil {
		return nil, err
	}
	if config, ok := fields["config"]; ok && bytes.HasPrefix(bytes.TrimSpace(config), []byte("{")) {
		for name := range fields {
			// The answer of GET /connectors/NAME has tasks and type besides.
			if !slices.Contains([]string{"name", "config", "tasks", "type", "initial_state"}, name) {
				return nil, fmt.Errorf("unknown key %q beside config", name)
			}
		}
		fields = nil
		if err := unmarshal(config, &fields); err != nil {
			return nil, err
		}
	}
	o := &options{values: make(map[string]string), names: make(map[string]string)}
	for name, raw := range fields {
		switch raw[0] {
		case '"':
			var s string
			if err := json.Unmarshal(raw, &s); err != nil {
				return nil, fmt.Errorf("%s is not a JSON string", name)
			}
			o.values[name] = s
		case '{', '[':
			return nil, fmt.Errorf("%s is neither text, a number, true nor false", name)
		case 'n':
		default:
			o.values[name] = string(raw)
		}
	}
	return o, nil
}

// unmarshal hides what encoding/json may quote of the file.
func unmarshal(text []byte, into any) error {
	err := json.Unmarshal(text, into)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("line %d is not valid JSON", 1+bytes.Count(text[:min(int(syntax.Offset), len(text))], []byte("\n")))
	}
	if err != nil {
		return errors.New("the file is not a JSON object of options")
	}
	return nil
}

// parseServer reads Debezium Server's application.properties, and gives its options
// the names that they have in Connect.
func parseServer(file []byte) (*options, error) {
	properties, err := parseProperties(string(file))
	if err != nil {
		return nil, err
	}
	o := &options{values: make(map[string]string), names: make(map[string]string), server: true}
	known := false
	for name, value := range properties {
		connect := serverOption(name)
		known = known || strings.HasPrefix(name, "debezium.")
		if old, ok := o.names[connect]; ok {
			return nil, fmt.Errorf("%s and %s say the same", old, name)
		}
		o.values[connect], o.names[connect] = value, name
	}
	if !known {
		return nil, errors.New("the file is neither a connector's JSON nor the properties of Debezium Server: no option begins with debezium")
	}
	return o, nil
}

func serverOption(name string) string {
	for _, p := range []struct{ server, connect string }{
		{"debezium.source.offset.storage", "server.offset.storage"}, // of the engine; there is none here
		{"debezium.source.", ""},
		{"debezium.transforms", "transforms"},
		{"debezium.predicates", "predicates"},
		{"debezium.sink.kafka.producer.", "producer.override."},
		{"debezium.format.key.", "key.converter."},
		{"debezium.format.value.", "value.converter."},
		{"debezium.format.header.", "header.converter."},
	} {
		if rest, ok := strings.CutPrefix(name, p.server); ok {
			return p.connect + rest
		}
	}
	return name
}

// parseProperties reads the format of java.util.Properties.
func parseProperties(text string) (map[string]string, error) {
	properties := make(map[string]string)
	lines := strings.Split(strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := strings.TrimLeft(lines[i], " \t\f")
		number := i + 1
		if line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		for continued(line) && i+1 < len(lines) {
			i++
			line = line[:len(line)-1] + strings.TrimLeft(lines[i], " \t\f")
		}
		end := 0
		for end < len(line) && !strings.ContainsRune("=: \t\f", rune(line[end])) {
			if line[end] == '\\' {
				end++
			}
			end++
		}
		end = min(end, len(line))
		value := strings.TrimLeft(line[end:], " \t\f")
		if value != "" && (value[0] == '=' || value[0] == ':') {
			value = strings.TrimLeft(value[1:], " \t\f")
		}
		name, err := unescape(line[:end])
		if err == nil {
			value, err = unescape(value)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if _, ok := properties[name]; ok {
			return nil, fmt.Errorf("line %d: %s stands twice", number, name)
		}
		properties[name] = strings.TrimRight(value, " \t") // as Quarkus does
	}
	return properties, nil
}

// continued tells a line that ends in an odd number of backslashes.
func continued(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
}

func unescape(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if at := strings.IndexByte("tnrf", s[i]); at >= 0 {
			b.WriteByte("\t\n\r\f"[at])
			continue
		}
		switch s[i] {
		case 'u':
			var r rune
			if i+4 >= len(s) {
				return "", errors.New(`\u without four hex digits`)
			}
			if _, err := fmt.Sscanf(s[i+1:i+5], "%04x", &r); err != nil {
				return "", errors.New(`\u without four hex digits`)
			}
			b.WriteRune(r)
			i += 4
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), nil
}
