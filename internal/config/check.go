package config

import (
	"net"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"outboxd/internal/template"
	"outboxd/internal/topicname"
)

// checks are the rules that a key names in its check tag. A rule returns "", or
// what is wrong in words that can stand after the value in a sentence; they
// must not quote any of the value, which may be a secret.
var checks = map[string]func(string) string{
	"broker":             checkBroker,
	"client id":          checkClientID,
	"column":             checkColumn,
	"column name":        checkIdentifier,
	"dsn":                checkDSN,
	"glob":               checkGlob,
	"group":              checkGroup,
	"identifier":         checkIdentifier,
	"key":                checkKey,
	"listen":             checkListen,
	"registry":           checkRegistry,
	"message prefix":     checkMessagePrefix,
	"otlp":               checkOTLP,
	"regex":              checkRegex,
	"replication factor": checkReplicationFactor,
	"rewind":             checkRewind,
	"rule topic":         checkRuleTopic,
	"slot":               checkSlot,
	"subject":            checkSubject,
	"template":           checkTemplate,
	"token":              checkToken,
	"topic":              checkTopic,
	"transactional id":   checkTransactionalID,
}

var (
	slotName    = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)
	hostName    = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	bearerToken = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)
)

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

// checkClientID and checkTransactionalID have the client's limits.
func checkClientID(id string) string {
	if len(id) > 256 {
		return "is longer than 256 bytes"
	}
	return ""
}

func checkTransactionalID(id string) string {
	if len(id) > 16382 {
		return "is longer than 16382 bytes"
	}
	return ""
}

// checkGroup is for a consumer group's name, which Kafka lets be anything.
func checkGroup(name string) string {
	if name == "" || len(name) > 32767 {
		return "is not a consumer group: 1 to 32767 bytes"
	}
	return ""
}

// maxRewind and maxRewindBytes are beyond what any server keeps, and small enough
// to count with.
const (
	maxRewind      = 3650 * 24 * time.Hour
	maxRewindBytes = 1024 * tiB
)

func checkRewind(text string) string {
	var r Rewind
	if err := r.UnmarshalText([]byte(text)); err == nil && (r.Age > maxRewind || r.Bytes > maxRewindBytes) {
		return "is more than 3650d or 1024TiB"
	}
	return ""
}

// checkToken is for a token that an HTTP header can hold (RFC 6750).
func checkToken(token string) string {
	if token != "" && !bearerToken.MatchString(token) {
		return "is not a bearer token: a-z, A-Z, 0-9 and -._~+/, with = at the end"
	}
	return ""
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
	if topicname.Check(name) != nil {
		return "is not a Kafka topic: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'"
	}
	return ""
}

// checkTemplate is for a topic with placeholders in braces.
func checkTemplate(text string) string {
	t, err := template.Parse(text)
	if err != nil {
		return err.Error()
	}
	for _, placeholder := range t.Placeholders() {
		column, isColumn := template.Column(placeholder)
		switch {
		case placeholder == "type" || placeholder == "aggregate_type":
		case isColumn && checkIdentifier(column) == "":
		default:
			return "has an unknown placeholder; there are {type}, {aggregate_type} and {column:NAME}"
		}
	}
	literal, whole := t.Literal()
	if whole {
		return checkTopic(literal)
	}
	if len(literal) > topicname.MaxLen || !topicname.Characters(literal) {
		return "has characters that no Kafka topic has; there are a-z, A-Z, 0-9, '.', '_' and '-'"
	}
	return ""
}

func checkRuleTopic(text string) string {
	if text == "" {
		return "" // discards
	}
	return checkTemplate(text)
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
	return checkURL(text, "https://registry:8081", "give them in value.avro.username and value.avro.password")
}

func checkOTLP(text string) string {
	return checkURL(text, "http://localhost:4318", "let a collector beside outboxd add them")
}

// checkURL is for the URL of a server. credentials says what to do with those.
func checkURL(text, example, credentials string) string {
	if text == "" {
		return ""
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() != "" && !isPort(u.Port(), 1):
		return "is not a URL such as " + example
	case u.User != nil:
		return "has credentials; " + credentials
	case u.RawQuery != "" || u.Fragment != "":
		return "has more than a host and a path"
	}
	return ""
}

func checkSubject(text string) string {
	t, err := template.Parse(text)
	if err != nil {
		return err.Error()
	}
	for _, placeholder := range t.Placeholders() {
		if placeholder != "topic" && placeholder != "type" && placeholder != "aggregate_type" {
			return "has an unknown placeholder; there are {topic}, {type} and {aggregate_type}"
		}
	}
	if text == "" {
		return "must not be empty"
	}
	return ""
}
