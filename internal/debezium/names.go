package debezium

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

// tableName returns the parts of a pattern that fits one table, SCHEMA.TABLE. The
// pattern is one of Debezium's, which are Java's regular expressions that take the
// whole name: a hyphen is one, as are escaped characters; anchors change nothing.
func tableName(pattern string) (schema, name string, err error) {
	rest := strings.TrimPrefix(pattern, "^")
	if inner, anchored := strings.CutSuffix(rest, "$"); anchored && !strings.HasSuffix(inner, `\`) {
		rest = inner
	}
	// A dot that is escaped ends the schema. Without one, the first that is not does:
	// it matches any character, and nobody means another.
	var text strings.Builder
	escaped, plain := -1, -1
	for i := 0; i < len(rest); i++ {
		c := rest[i]
		switch {
		case strings.HasPrefix(rest[i:], "[.]"), strings.HasPrefix(rest[i:], `\.`):
			if escaped >= 0 {
				return "", "", errors.New("is not SCHEMA.TABLE")
			}
			escaped = text.Len()
			i += len("[.]") - 1
			if c == '\\' {
				i--
			}
			text.WriteByte('.')
		case c == '\\':
			if i++; i == len(rest) || isWord(rest[i]) {
				return "", "", errPattern
			}
			text.WriteByte(rest[i])
		case c == '.':
			if plain >= 0 {
				return "", "", errPattern
			}
			plain = text.Len()
			text.WriteByte('.')
		case strings.IndexByte("*+?()|[]{}^$", c) >= 0:
			return "", "", errPattern
		default:
			text.WriteByte(c)
		}
	}
	at := escaped
	switch {
	case escaped >= 0 && plain >= 0:
		return "", "", errPattern
	case escaped < 0:
		at = plain
	}
	if at < 0 {
		return "", "", errors.New("is not SCHEMA.TABLE")
	}
	schema, name = unquote(text.String()[:at]), unquote(text.String()[at+1:])
	for _, part := range []string{schema, name} {
		if part == "" || len(part) > 63 || strings.ContainsFunc(part, unicode.IsControl) {
			return "", "", errors.New("is not SCHEMA.TABLE")
		}
	}
	return schema, name, nil
}

var errPattern = errors.New("is a pattern that may fit several tables; name the one that is the outbox")

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

func unquote(s string) string {
	if len(s) > 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

var plainIdentifier = regexp.MustCompile(`^[a-z_][a-z0-9_$]*$`)

// quoteIdentifier quotes as SQL does where it must be.
func quoteIdentifier(name string) string {
	if plainIdentifier.MatchString(name) {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// slot returns the slot's name, if PostgreSQL can have one of that name.
func (im *importer) slot() string {
	const option = "slot.name"
	name := im.get(option, "debezium")
	switch {
	case slotName.MatchString(name):
		return name
	case im.isReference(name):
		im.refuse(option, "it is a reference; write the slot's name out")
	default:
		im.refuse(option, "%q is not a slot's name: 1 to 63 of a-z, 0-9 and _", clip(name))
	}
	return "debezium"
}

// identifier returns an option that names something in PostgreSQL.
func (im *importer) identifier(option, deflt string) string {
	name := im.get(option, deflt)
	if len(name) > 63 || strings.ContainsRune(name, 0) {
		im.refuse(option, "%q is not a PostgreSQL name: 1 to 63 bytes", clip(name))
		return deflt
	}
	return literal(name)
}

// successors are options of Debezium 1 and what they are called since 2.0, which
// passes over the old names in silence. Those of the router have no prefix.
var successors = map[string]string{
	"database.server.name":      "topic.prefix",
	"table.whitelist":           "table.include.list",
	"table.blacklist":           "table.exclude.list",
	"schema.whitelist":          "schema.include.list",
	"schema.blacklist":          "schema.exclude.list",
	"column.whitelist":          "column.include.list",
	"column.blacklist":          "column.exclude.list",
	"database.whitelist":        "database.include.list",
	"database.blacklist":        "database.exclude.list",
	"slot.drop_on_stop":         "slot.drop.on.stop",
	"toasted.value.placeholder": "unavailable.value.placeholder",
	"transaction.topic":         "topic.transaction",
	"initial.statements":        "database.initial.statements",

	"table.field.payload":        "table.field.event.payload",
	"table.field.payload.id":     "table.field.event.key",
	"table.field.schema.version": "table.field.event.schema.version",
	"route.topic":                "route.topic.replacement",
	"debezium.op.invalid.action": "table.op.invalid.behavior",
}

// successor returns what an old option is called now.
func (im *importer) successor(name string) (string, bool) {
	if inRouter, ok := strings.CutPrefix(name, im.router); ok {
		now, old := successors[inRouter]
		return im.router + now, old
	}
	now, old := successors[name]
	return now, old
}

// foreign are the beginnings of options that other connectors have. The one of
// PostgreSQL does nothing with them.
var foreign = []struct{ beginning, of string }{
	{"database.history.", "MySQL, SQL Server, Oracle and Db2"}, {"schema.history.internal", "MySQL, SQL Server, Oracle and Db2"},
	{"store.only.captured.", "MySQL, SQL Server, Oracle and Db2"}, {"database.server.id", "MySQL"}, {"database.connectionTimeZone", "MySQL"},
	{"database.allowPublicKeyRetrieval", "MySQL"}, {"database.ssl.", "MySQL and MongoDB"}, {"gtid.", "MySQL"}, {"binlog.", "MySQL"},
	{"bigint.unsigned.handling.mode", "MySQL"}, {"connect.keep.alive", "MySQL"}, {"connect.timeout.ms", "MySQL"}, {"enable.time.adjuster", "MySQL"},
	{"include.query", "MySQL"}, {"min.row.count.to.stream.results", "MySQL"}, {"inconsistent.schema.handling.mode", "MySQL"},
	{"event.deserialization.failure.handling.mode", "MySQL"}, {"use.nongraceful.disconnect", "MySQL"},
	{"database.names", "SQL Server"}, {"database.encrypt", "SQL Server"}, {"database.trustServerCertificate", "SQL Server"}, {"database.instance", "SQL Server"},
	{"data.query.mode", "SQL Server"}, {"max.iteration.transactions", "SQL Server"},
	{"database.pdb.name", "Oracle"}, {"database.url", "Oracle"}, {"database.connection.adapter", "Oracle"}, {"database.out.server.name", "Oracle"},
	{"log.mining.", "Oracle"}, {"lob.enabled", "Oracle"}, {"rac.nodes", "Oracle"}, {"openlogreplicator.", "Oracle"}, {"archive.", "Oracle"},
	{"mongodb.", "MongoDB"}, {"capture.", "MongoDB"}, {"collection.", "MongoDB"}, {"cursor.", "MongoDB"},
}

// idle tells an option that does nothing in Kafka Connect, and why.
func (im *importer) idle(name string) (reason string, ok bool) {
	if rest, found := strings.CutPrefix(name, "transforms."); found {
		transform, _, _ := strings.Cut(rest, ".")
		for _, used := range list(im.values["transforms"]) {
			if used == transform {
				return "", false
			}
		}
		return fmt.Sprintf("transforms does not name %s", clip(transform)), true
	}
	for _, f := range foreign {
		if strings.HasPrefix(name, f.beginning) {
			return "it is an option of " + f.of, true
		}
	}
	return "", false
}
