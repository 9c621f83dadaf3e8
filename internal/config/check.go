package config

import (
	"net"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// checks are the rules that a key names in its check tag. A rule returns "", or
// what is wrong in words that can stand after the value in a sentence; they
// must not quote any of the value, which may be a secret.
var checks = map[string]func(string) string{
	"broker":             checkBroker,
	"column":             checkColumn,
	"column name":        checkIdentifier,
	"dsn":                checkDSN,
	"glob":               checkGlob,
	"identifier":         checkIdentifier,
	"key":                checkKey,
	"listen":             checkListen,
	"registry":           checkRegistry,
	"message prefix":     checkMessagePrefix,
	"regex":              checkRegex,
	"replication factor": checkReplicationFactor,
	"rule topic":         checkRuleTopic,
	"slot":               checkSlot,
	"subject":            checkSubject,
	"template":           checkTemplate,
	"topic":              checkTopic,
}

var (
	slotName  = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)
	hostName  = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]*$`)
)

// maxTopicLength is Kafka's.
const maxTopicLength = 249

func checkSlot(name string) string {
	if !slotName.MatchString(name) {
		return "is not a slot name: 1 to 63 of a-z, 0-9 and _"
	}
	return ""
}

// checkIdentifier is for a name that is looked up in PostgreSQL's catalogue.
// The server would cut a longer one off, and find another object or none.
func checkIdentifier(name string) string {
	if name == "" || len(name) > 63 || strings.ContainsRune(name, 0) {
		return "is not a PostgreSQL name: 1 to 63 bytes"
	}
	return ""
}

// checkMessagePrefix is for a prefix of pg_logical_emit_message, which may have
// any characters.
func checkMessagePrefix(prefix string) string {
	if strings.ContainsRune(prefix, 0) {
		return "has a character that no text in PostgreSQL has"
	}
	return ""
}

func checkColumn(name string) string {
	if name == "" {
		return ""
	}
	return checkIdentifier(name)
}

func checkBroker(broker string) string {
	const complaint = "is not host:port"
	host, port, err := net.SplitHostPort(withPort(broker))
	if err != nil || !isPort(port, 1) {
		return complaint
	}
	if !hostName.MatchString(host) && net.ParseIP(host) == nil {
		return complaint
	}
	return ""
}

// withPort adds Kafka's usual port to a broker that has none.
func withPort(broker string) string {
	_, _, err := net.SplitHostPort(broker)
	if missing, ok := err.(*net.AddrError); ok && missing.Err == "missing port in address" {
		return broker + ":9092"
	}
	return broker
}

func (k *Kafka) addDefaultPort() {
	for i, broker := range k.Brokers {
		k.Brokers[i] = withPort(broker)
	}
}

func checkListen(address string) string {
	if address == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || !isPort(port, 0) || host != "" && !hostName.MatchString(host) && net.ParseIP(host) == nil {
		return "is not an address such as 127.0.0.1:9188 or :9188"
	}
	return ""
}

func isPort(text string, least uint64) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n >= least
}

func checkTopic(name string) string {
	if name == "" || name == "." || name == ".." || len(name) > maxTopicLength || !topicName.MatchString(name) {
		return "is not a Kafka topic: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'"
	}
	return ""
}

// checkTemplate is for a topic with placeholders in braces.
func checkTemplate(template string) string {
	literal, placeholders, ok := splitTemplate(template)
	if !ok {
		return "has a { or } without its partner"
	}
	for _, placeholder := range placeholders {
		column, isColumn := strings.CutPrefix(placeholder, "column:")
		switch {
		case placeholder == "type" || placeholder == "aggregate_type":
		case isColumn && checkIdentifier(column) == "":
		default:
			return "has an unknown placeholder; there are {type}, {aggregate_type} and {column:NAME}"
		}
	}
	if len(placeholders) == 0 {
		return checkTopic(literal)
	}
	if len(literal) > maxTopicLength || !topicName.MatchString(literal) {
		return "has characters that no Kafka topic has; there are a-z, A-Z, 0-9, '.', '_' and '-'"
	}
	return ""
}

// splitTemplate returns a template's text outside braces and the names in them.
func splitTemplate(template string) (literal string, placeholders []string, ok bool) {
	for {
		before, rest, found := strings.Cut(template, "{")
		if strings.Contains(before, "}") {
			return "", nil, false
		}
		literal += before
		if !found {
			return literal, placeholders, true
		}
		placeholder, after, closed := strings.Cut(rest, "}")
		if !closed || strings.Contains(placeholder, "{") {
			return "", nil, false
		}
		placeholders = append(placeholders, placeholder)
		template = after
	}
}

// TemplateColumns returns the names of the columns in a template's {column:NAME}.
func TemplateColumns(template string) (names []string) {
	_, placeholders, _ := splitTemplate(template)
	for _, placeholder := range placeholders {
		if column, ok := strings.CutPrefix(placeholder, "column:"); ok {
			names = append(names, column)
		}
	}
	return names
}

func checkRuleTopic(template string) string {
	if template == "" {
		return "" // discards
	}
	return checkTemplate(template)
}

func checkKey(field string) string {
	column, isColumn := strings.CutPrefix(field, "{column:")
	switch {
	case field == "none" || slices.Contains(keyFields(), field):
		return ""
	case isColumn && strings.HasSuffix(column, "}") && checkIdentifier(column[:len(column)-1]) == "":
		return ""
	}
	return "is not one of none, " + strings.Join(keyFields(), ", ") + ", {column:NAME}"
}

// keyFields are the fields of an event that can be its record's key.
func keyFields() []string {
	var names []string
	columns := reflect.TypeFor[Columns]()
	for i := range columns.NumField() {
		if name := columns.Field(i).Tag.Get("yaml"); name != "payload" {
			names = append(names, name)
		}
	}
	return names
}

func checkGlob(pattern string) string {
	if strings.ContainsAny(pattern, `[]{}\`) {
		return "is not a pattern: only * and ? are special, and brackets, braces and \\ are not allowed"
	}
	return ""
}

func checkRegex(pattern string) string {
	if _, err := regexp.Compile(pattern); err != nil {
		return "is not a regular expression of Go's syntax"
	}
	return ""
}

func checkReplicationFactor(text string) string {
	if n, _ := strconv.Atoi(text); n < 1 && n != -1 || n > 32767 {
		return "is not a replication factor: 1 or more, or -1 for the brokers' own"
	}
	return ""
}

func checkRegistry(text string) string {
	if text == "" {
		return ""
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return "is not a URL such as https://registry:8081"
	case u.User != nil:
		return "has credentials; give them in value.avro.username and value.avro.password"
	case u.RawQuery != "" || u.Fragment != "":
		return "has more than a host and a path"
	}
	return ""
}

func checkSubject(template string) string {
	_, placeholders, ok := splitTemplate(template)
	if !ok {
		return "has a { or } without its partner"
	}
	for _, placeholder := range placeholders {
		if placeholder != "topic" && placeholder != "type" && placeholder != "aggregate_type" {
			return "has an unknown placeholder; there are {topic}, {type} and {aggregate_type}"
		}
	}
	if template == "" {
		return "must not be empty"
	}
	return ""
}
