package debezium

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// table is the outbox table.
type table struct{ schema, name string }

// source writes the postgres group.
func (im *importer) source() {
	im.dsn()
	im.out.text(1, "slot", im.slot(), "The slot is taken over as it is: stop the connector, then start outboxd.")
	if v := im.get("plugin.name", "decoderbufs"); v != "pgoutput" {
		given := "it is missing, and Debezium's default is decoderbufs; "
		if im.given("plugin.name") {
			given = ""
		}
		im.refuse("plugin.name", "%soutboxd reads pgoutput, and PostgreSQL cannot change the plugin of a slot. "+
			"Let Debezium itself go over to plugin.name pgoutput with a new slot first, then import again", given)
	}
	publication := im.identifier("publication.name", "dbz_publication")
	comment := "Taken over as it is; what it publishes beside inserts into the outbox is read and dropped."
	switch im.choice("publication.autocreate.mode", "all_tables", "all_tables", "filtered", "disabled", "no_tables") {
	case "all_tables":
		comment = "Made by Debezium for all tables: every change in the database is sent and dropped. A publication of the outbox alone costs less."
	case "no_tables":
		im.refuse("publication.autocreate.mode", "no_tables cannot be honoured: outboxd makes a publication that has the outbox")
	}
	im.out.text(1, "publication", publication, comment)
	if im.given("slot.failover") {
		failover := "off"
		if im.flag("slot.failover", false) {
			failover = "on"
		}
		im.out.text(1, "failover", failover)
	}
	switch mode := im.choice("snapshot.mode", "initial", "initial", "never", "no_data", "when_needed", "recovery",
		"always", "initial_only", "custom", "configuration_based"); mode {
	case "always", "initial_only", "custom", "configuration_based":
		im.refuse("snapshot.mode", "%s cannot be honoured: outboxd publishes what is committed after the slot's position", mode)
	case "initial", "when_needed":
		im.note("snapshot.mode %s: with a slot that exists nothing is published beside what follows on its position; rows from before a new slot are published only with outbox.backfill.", mode)
	}
	if skipped := list(im.get("skipped.operations", "t")); contains(skipped, "c") {
		im.refuse("skipped.operations", "c leaves out the inserts, which are the events")
	}
}

func contains(words []string, word string) bool {
	for _, w := range words {
		if strings.EqualFold(w, word) {
			return true
		}
	}
	return false
}

// dsn writes the connection string. A password that the file only refers to stays
// outside it: what it stands for may need quotes.
func (im *importer) dsn() {
	im.out.group(0, "postgres")
	var parts, comments []string
	add := func(key, option, deflt string) {
		if v := im.reference(option, im.get(option, deflt)); v != "" {
			parts = append(parts, key+"="+quoteDSN(v))
		}
	}
	for _, required := range []string{"database.hostname", "database.user", "database.dbname"} {
		if im.get(required, "") == "" {
			im.refuse(required, "missing")
		}
	}
	add("host", "database.hostname", "")
	add("port", "database.port", "5432")
	add("user", "database.user", "")
	switch password := im.get("database.password", ""); {
	case im.isReference(password):
		comments = append(comments, "Without the password, which stood outside the connector's file too: give it as PGPASSWORD, or in a passfile.")
	case password != "":
		parts = append(parts, "password="+quoteDSN(literal(password)))
		comments = append(comments, "With the password, as in the connector's file. It is safer as PGPASSWORD, in a passfile, or with the whole text in ${file:/run/secrets/dsn}.")
	}
	add("dbname", "database.dbname", "")
	add("sslmode", "database.sslmode", "")
	add("sslrootcert", "database.sslrootcert", "")
	add("sslcert", "database.sslcert", "")
	if im.given("database.sslkey") {
		comments = append(comments, "Java's driver takes sslkey in PKCS-8 DER, this one in PEM: openssl pkcs8 -inform DER -in KEY -out KEY.pem")
	}
	add("sslkey", "database.sslkey", "")
	if p := im.get("database.sslpassword", ""); p != "" && !im.isReference(p) {
		parts = append(parts, "sslpassword="+quoteDSN(literal(p)))
	} else if p != "" {
		im.refuse("database.sslpassword", "it is a reference; write sslpassword into postgres.dsn by hand, and leave it out here")
	}
	im.out.text(1, "dsn", strings.Join(parts, " "), comments...)
}

// quoteDSN is libpq's quoting. ${ that the file's reader replaces stays as it is.
func quoteDSN(v string) string {
	if v != "" && !strings.ContainsAny(v, ` '\`) {
		return v
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
}

var connectReference = regexp.MustCompile(`\$\{([^}:]*):(?:([^}]*):)?([^}]*)\}`)

func (im *importer) isReference(v string) bool {
	if im.server {
		return strings.Contains(v, "${")
	}
	return connectReference.MatchString(v)
}

// reference returns a value in which what the file takes from elsewhere is taken
// from there by outboxd, or from a variable.
func (im *importer) reference(option, value string) string {
	if !im.isReference(value) {
		return literal(value)
	}
	variable := strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(strings.TrimPrefix(option, "producer.override.")))
	if im.server {
		if strings.Contains(value, ":") && regexp.MustCompile(`\$\{[^}]*:`).MatchString(value) {
			im.refuse(option, "it is a reference with a default, which outboxd does not have; write ${NAME}")
			return ""
		}
		if !regexp.MustCompile(`^([^$]|\$\{[A-Za-z_][A-Za-z0-9_]*\})*$`).MatchString(value) {
			im.note("%s refers to another property: set the environment variable %s.", im.spelling(option), variable)
			return "${" + variable + "}"
		}
		return value // of the same form
	}
	return connectReference.ReplaceAllStringFunc(value, func(ref string) string {
		m := connectReference.FindStringSubmatch(ref)
		provider, where, key := m[1], m[2], m[3]
		switch {
		case provider == "env" && where == "" && regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`).MatchString(key):
			return "${" + key + "}"
		case (provider == "directory" || provider == "dir") && where != "":
			return "${file:" + path.Join(where, key) + "}"
		}
		im.note("%s was %s, which only Kafka Connect can look up: set the environment variable %s.", im.spelling(option), ref, variable)
		return "${" + variable + "}"
	})
}

// findTable reads the one table that the connector captures. Debezium takes regular
// expressions there.
func (im *importer) findTable() {
	const option = "table.include.list"
	v := im.get(option, "")
	names := list(v)
	unknown := func(format string, arg any) {
		im.refuse(option, format, arg)
		im.table = table{"public", "outbox"}
		for _, filters := range []string{"schema.include.", "schema.exclude.", "database.include.", "database.exclude."} {
			im.seeAll(filters)
		}
	}
	if len(names) != 1 {
		unknown("it must name one table, the outbox; it names %d", len(names))
		return
	}
	schema, name, err := tableName(names[0])
	if err != nil {
		unknown("%s", fmt.Sprintf("%q %s", clip(names[0]), err))
		return
	}
	im.table = table{schema, name}
	if schema != strings.ToLower(schema) || name != strings.ToLower(name) {
		im.note("table.include.list does not look at capitals; outbox.table does.")
	}
	// Filters of schemas besides: the outbox has to pass.
	database := im.get("database.dbname", "")
	im.filter("schema.include.list", im.table.schema, true)
	im.filter("schema.exclude.list", im.table.schema, false)
	im.filter("database.include.list", database, true)
	im.filter("database.exclude.list", database, false)
}

// filter refuses a list that leaves out the outbox, whose schema or database is
// subject.
func (im *importer) filter(name, subject string, include bool) {
	filters := list(im.get(name, ""))
	found := false
	for _, f := range filters {
		re, err := regexp.Compile(`(?i)\A(?:` + f + `)\z`)
		if err != nil {
			im.refuse(name, "%q is not a pattern that can be checked", clip(f))
			return
		}
		found = found || re.MatchString(subject)
	}
	if len(filters) > 0 && found != include {
		im.refuse(name, "it leaves out the outbox, %s", im.table)
	}
}

// String returns the table as outboxd's configuration names it.
func (t table) String() string {
	return quoteIdentifier(t.schema) + "." + quoteIdentifier(t.name)
}
