package config

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5/pgconn"
)

// Placeholder stands where [Config.Print] hides a secret. It is a legal value of
// every secret, so that what was printed loads again; [Config.Placeholders] finds it.
const Placeholder = "hidden-by-outboxd-config"

// Print returns the configuration as YAML, each key with where its value comes from
// as a comment. Secrets are replaced by [Placeholder], and a connection string by
// what of it is none. Keys that this version does not have yet are left out. Loaded
// again, it is the same configuration but for the secrets.
func (c *Config) Print() []byte {
	p := &printer{config: c}
	p.group(schema(), "")
	return []byte(p.b.String())
}

// Placeholders returns a problem for each secret that is a placeholder: the
// configuration was printed, and the secrets were not put back.
func (c *Config) Placeholders() (problems []Problem) {
	check := func(path string, s Secret) {
		if strings.Contains(s.Reveal(), Placeholder) {
			problems = append(problems, c.Problem(path, "the value is what `outboxd config` prints in place of a secret; write the secret"))
		}
	}
	for k := range schema().leaves() {
		switch value := k.of(c).Interface().(type) {
		case Secret:
			check(k.path, value)
		case map[string]Secret:
			for _, name := range slices.Sorted(maps.Keys(value)) {
				check(k.path+"."+show(name), value[name])
			}
		}
	}
	return problems
}

type printer struct {
	config *Config
	b      strings.Builder
}

// line writes one line, with a comment if there is one.
func (p *printer) line(indent, text, comment string) {
	p.b.WriteString(indent + text)
	if comment != "" {
		p.b.WriteString("  # " + comment)
	}
	p.b.WriteByte('\n')
}

// group writes the built keys below a group.
func (p *printer) group(group *key, indent string) {
	for _, k := range group.keys {
		switch {
		case k.isUnbuilt() || k.keys != nil && !hasBuilt(k):
		case k.keys != nil:
			p.line(indent, k.name+":", "")
			p.group(k, indent+"  ")
		default:
			p.leaf(k, indent)
		}
	}
}

// hasBuilt tells a group with a key that this version has.
func hasBuilt(group *key) bool {
	for k := range group.leaves() {
		if !k.isUnbuilt() {
			return true
		}
	}
	return false
}

func (p *printer) leaf(k *key, indent string) {
	field := k.of(p.config)
	origin := p.origin(k.path)
	switch value := field.Interface().(type) {
	case Secret:
		text, note := p.secret(k.path, value)
		p.line(indent, k.name+": "+scalar(text), join(note, origin))
	case Pairs:
		p.open(indent, k.name, "{}", len(value), origin)
		for _, pair := range value {
			p.entry(indent, k.path, pair.Name, pair.Value)
		}
	case map[string]string:
		p.open(indent, k.name, "{}", len(value), origin)
		for _, name := range slices.Sorted(maps.Keys(value)) {
			p.entry(indent, k.path, name, value[name])
		}
	case map[string]Secret:
		p.open(indent, k.name, "{}", len(value), origin)
		for _, name := range slices.Sorted(maps.Keys(value)) {
			text, note := p.secret(k.path, value[name])
			p.line(indent+"  ", keyText(name)+": "+scalar(text), join(note, p.given(k.path+"."+show(name))))
		}
	default:
		if field.Kind() == reflect.Slice {
			p.list(k, field, indent, origin)
			return
		}
		p.line(indent, k.name+": "+scalarOf(field), origin)
	}
}

// open begins a list or mapping of n elements.
func (p *printer) open(indent, name, empty string, n int, origin string) {
	if n > 0 {
		empty = ""
	}
	p.line(indent, strings.TrimSuffix(name+": "+empty, " "), origin)
}

// entry writes an entry of a mapping with names of the user's choice.
func (p *printer) entry(indent, path, name, value string) {
	p.line(indent+"  ", keyText(name)+": "+scalar(value), p.given(path+"."+show(name)))
}

func (p *printer) list(k *key, list reflect.Value, indent, origin string) {
	p.open(indent, k.name, "[]", list.Len(), origin)
	for i := range list.Len() {
		element, path := list.Index(i), k.path+"["+strconv.Itoa(i)+"]"
		if element.Kind() != reflect.Struct {
			p.line(indent+"  ", "- "+scalarOf(element), p.given(path))
			continue
		}
		lead := "- "
		for _, field := range keysOf(element.Type(), &key{}) {
			value := element.FieldByIndex(field.index)
			if value.IsZero() && !field.required {
				continue
			}
			p.line(indent+"  ", lead+field.name+": "+scalarOf(value), p.given(path+"."+field.name))
			lead = "  "
		}
	}
}

// origin says where a key's value comes from.
func (p *printer) origin(path string) string {
	return cmp.Or(p.given(path), "default")
}

// given is origin, but "" for what was not given by itself.
func (p *printer) given(path string) string {
	at, given := p.config.origins[path]
	switch {
	case !given:
		return ""
	case at.variable != "":
		return "environment " + at.variable
	}
	from := fmt.Sprintf("file %s line %d", comment(p.config.file), at.line)
	if len(at.references) > 0 {
		from += ": " + comment(strings.Join(at.references, ", "))
	}
	return from
}

// secret returns what is shown in place of a secret, and a note about what is not.
func (p *printer) secret(path string, s Secret) (text, note string) {
	switch {
	case s.IsEmpty():
		return "", ""
	case path == "postgres.dsn":
		return publicDSN(s.Reveal())
	case path == "value.avro.registry" || path == "monitor.trace.endpoint":
		// Checked: it has no credentials, but a path that may be one.
		if u, err := url.Parse(s.Reveal()); err == nil {
			if bare := (&url.URL{Scheme: u.Scheme, Host: u.Host}).String(); strings.Trim(u.Path, "/") == "" {
				return bare, ""
			} else {
				return bare + "/" + Placeholder, "path hidden"
			}
		}
	}
	return Placeholder, "hidden"
}

// publicOptions are the options of a connection string that hold no secret, and
// without which a connection would be another one. passfile and service are names
// of files and of their parts.
var publicOptions = []string{
	"application_name", "channel_binding", "connect_timeout", "gssencmode", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval",
	"krbsrvname", "load_balance_hosts", "max_protocol_version", "min_protocol_version", "passfile", "require_auth", "sslcert", "sslcertmode",
	"sslcrl", "sslcrldir", "sslkey", "sslmode", "sslnegotiation", "sslrootcert", "sslsni", "target_session_attrs", "tcp_user_timeout",
}

// publicDSN returns a connection string without its secrets: user, hosts, database
// and publicOptions.
func publicDSN(dsn string) (text, note string) {
	text = RedactDSN(dsn)
	settings, ok := dsnSettings(dsn)
	if text == hidden || !ok {
		return "host=" + Placeholder, "hidden"
	}
	query := url.Values{}
	note = "no password in it"
	more := false
	for name, value := range settings {
		switch {
		case slices.Contains(publicOptions, name):
			query.Set(name, value)
		case name == "password":
			note = "password hidden"
		case !slices.Contains([]string{"host", "hostaddr", "port", "user", "dbname", "database"}, name):
			more = true
		}
	}
	if more {
		note += ", and options that may be secret"
	}
	if len(query) > 0 {
		text += "?" + query.Encode()
	}
	if _, err := pgconn.ParseConfig(text); err != nil {
		return "host=" + Placeholder, "hidden"
	}
	return text, note
}

// dsnSettings returns the keywords of a connection string that the driver accepts,
// with their values. It returns false for one that it does not split for certain as
// the driver does.
func dsnSettings(dsn string) (map[string]string, bool) {
	settings := map[string]string{}
	if isURL(dsn) {
		_, rest, _ := strings.Cut(dsn, "://")
		// As the driver, which takes an @ before the first / for the end of user and
		// password.
		if end := strings.IndexAny(rest, "@/"); end >= 0 && rest[end] == '@' {
			if _, password, _ := strings.Cut(rest[:end], ":"); password != "" {
				settings["password"] = ""
			}
			rest = rest[end+1:]
		}
		_, query, _ := strings.Cut(rest, "?")
		for pair := range strings.SplitSeq(query, "&") {
			name, value, _ := strings.Cut(pair, "=")
			value, err := url.PathUnescape(value)
			if err != nil {
				return nil, false
			}
			settings[name] = value
		}
		delete(settings, "")
		return settings, true
	}
	for rest := strings.TrimSpace(dsn); rest != ""; rest = strings.TrimLeft(rest, " \t\r\n\v\f") {
		name, value, found := strings.Cut(rest, "=")
		if !found {
			return nil, false
		}
		value = strings.TrimLeft(value, " \t\r\n\v\f")
		quoted := strings.HasPrefix(value, "'")
		value = strings.TrimPrefix(value, "'")
		var b strings.Builder
		end := 0
		for ; end < len(value) && !(quoted && value[end] == '\'') && !(!quoted && strings.IndexByte(" \t\r\n\v\f", value[end]) >= 0); end++ {
			if value[end] == '\\' && end+1 < len(value) {
				end++
			}
			b.WriteByte(value[end])
		}
		if rest = value[end:]; quoted {
			if rest == "" {
				return nil, false
			}
			rest = rest[1:]
		}
		settings[strings.TrimSpace(name)] = b.String()
	}
	return settings, true
}

// scalarOf returns a field's value as YAML.
func scalarOf(field reflect.Value) string {
	switch value := field.Interface().(type) {
	case string:
		return scalar(value)
	case Table:
		return scalar(value.String())
	default:
		return fmt.Sprint(value) // numbers, truths, durations and sizes need no quotes
	}
}

// scalar returns a text as YAML that loads as that text.
func scalar(value string) string {
	value = strings.ReplaceAll(strings.ToValidUTF8(value, "\ufffd"), "${", "$${")
	if isPlain(value, "k", value) {
		return value
	}
	return strconv.Quote(value) // its escapes are among YAML's
}

// keyText is scalar for the key of a mapping, in which ${ has no meaning.
func keyText(name string) string {
	if isPlain(name, name, "x") {
		return name
	}
	return strconv.Quote(name)
}

// isPlain tells whether what is shown needs no quotes where key and value stand in a
// line with a comment.
func isPlain(shown, key, value string) bool {
	if strings.ContainsFunc(shown, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) }) {
		return false
	}
	root, err := parse([]byte(key + ": " + value + "  # c\n"))
	if err != nil || root == nil || len(root.entries) != 1 {
		return false
	}
	e := root.entries[0]
	return e.key == key && e.value.kind == text && e.value.text == value
}

// comment returns a text that cannot end a comment.
func comment(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// join joins the parts that are not empty.
func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), "; ")
}
