package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"outboxd/internal/template"
)

// checkRelations checks keys against each other. A relation with a key that has
// a problem of its own is left out: its value is not what the user meant.
func (l *loader) checkRelations() {
	l.checkSources()
	l.checkColumns()
	l.checkTLS("kafka.tls", l.config.Kafka.TLS)
	l.checkSASL("kafka.sasl", l.config.Kafka.SASL)
	l.checkAvro(l.config.Value)
	l.checkMask()
	l.checkForbidden()
	l.checkHeaders()

	l.checkHTTP(l.config.HTTP)
	l.checkRetention(l.config.Retention)

	delivery, retry := l.config.Delivery, l.config.Errors.Retry
	l.require(delivery.Store != "file" || delivery.File != "",
		"must not be empty; delivery.store file needs it", "delivery.file", "delivery.store")
	l.require(delivery.Guarantee != "exactly_once" || delivery.Store != "file",
		"must not be file with delivery.guarantee exactly_once: the position is committed in the same Kafka transaction as its events", "delivery.store", "delivery.guarantee")
	l.require(delivery.Rewind.IsZero() || delivery.Store != "slot" || delivery.Guarantee == "exactly_once",
		"needs delivery.store file or kafka: the slot itself is what is held back", "delivery.rewind", "delivery.store")
	l.require(l.config.Errors.DeadLetterTopic != delivery.Topic,
		"is the topic of delivery.topic, which keeps positions; name another", "errors.dead_letter_topic", "delivery.topic")
	l.require(retry.Min <= retry.Max,
		"is more than errors.retry.max", "errors.retry.min", "errors.retry.max")
}

// checkSources checks that there is something to read.
func (l *loader) checkSources() {
	outbox := l.config.Outbox
	table := outbox.Table != Table{}
	l.require(table || outbox.MessagePrefix != "",
		"must not be empty, unless outbox.message_prefix is given", "outbox.table", "outbox.message_prefix")
	l.require(outbox.Backfill == "none" || table,
		"existing needs a table, and outbox.table is empty", "outbox.backfill", "outbox.table")
	const anywhere = "goes by the rows of the table, which do not say where they were written; it needs postgres.origin: any"
	l.require(outbox.Backfill == "none" || l.config.Postgres.Origin == "any", "existing "+anywhere, "outbox.backfill", "postgres.origin")
	l.require(l.config.Reconcile.Every == 0 || l.config.Postgres.Origin == "any", anywhere, "reconcile.every", "postgres.origin")
	l.require(outbox.Backfill == "none" || l.config.Postgres.Create,
		"existing makes the slot itself, together with a snapshot of the table; it needs postgres.create: true", "outbox.backfill", "postgres.create")
}

// checkColumns checks that what the record needs is read.
func (l *loader) checkColumns() {
	c := l.config
	l.require(c.Outbox.Columns.Payload != "", "must not be empty", "outbox.columns.payload")

	if c.Route.Regex.Column == "" {
		l.requireTemplate(c.Route.Topic, "route.topic")
	}
	for i, rule := range c.Route.Rules {
		name := fmt.Sprintf("route.rules[%d]", i)
		l.requireTemplate(rule.Topic, name+".topic")
		if rule.Type != "" {
			l.requireColumn("type", name+".type", "")
		}
		if rule.AggregateType != "" {
			l.requireColumn("aggregate_type", name+".aggregate_type", "")
		}
	}
	if key := c.Route.Key; key != "none" {
		l.requireColumn(key, "route.key", key)
	}
	if c.Value.Timestamp == "column" {
		l.requireColumn("timestamp", "value.timestamp", "column")
	}
	for _, user := range []struct{ key, value string }{{"value.format", c.Value.Format}, {"value.headers", c.Value.Headers}} {
		if user.value == "cloudevents" {
			l.requireColumn("id", user.key, user.value)
			l.requireColumn("type", user.key, user.value)
		}
	}
	l.require(c.Value.Headers != "cloudevents" || c.Value.Format == "raw",
		"must be raw with value.headers cloudevents: that is CloudEvents' binary mode", "value.format", "value.headers")
	l.checkDebezium()
	const ineffective = "has no effect with value.headers none"
	l.require(c.Value.Headers != "none" || len(c.Outbox.Headers) == 0, ineffective, "outbox.headers", "value.headers")
	l.require(c.Value.Headers != "none" || c.Outbox.HeadersColumn == "", ineffective, "outbox.headers_column", "value.headers")
}

// checkAvro checks that there is a registry exactly when it is used.
func (l *loader) checkAvro(v Value) {
	const format, registry, username, password = "value.format", "value.avro.registry", "value.avro.username", "value.avro.password"
	a := v.Avro
	l.require(v.Format != "avro" || !a.Registry.IsEmpty(), "must not be empty; "+format+" avro needs it", registry, format)
	l.require(v.Format == "avro" || l.given(format) || a.Registry.IsEmpty(), "has no effect without "+format+": avro", registry, format)
	l.require(a.Username == "" || !a.Password.IsEmpty(), "must not be empty; "+username+" needs it", password, username)
	l.require(a.Password.IsEmpty() || a.Username != "", "must not be empty; "+password+" needs it", username, password)
	l.require(v.Format != "avro" || a.Token.IsEmpty() || a.Username == "", "must be empty with "+username+": a request has one or the other", "value.avro.token", username)
	l.checkTLS("value.avro.tls", a.TLS)
	l.require(!a.TLS.Enabled || a.Registry.IsEmpty() || strings.HasPrefix(a.Registry.Reveal(), "https:"),
		"must begin with https:; value.avro.tls.enabled needs it", registry, "value.avro.tls.enabled")
	if v.Format == "avro" {
		for _, field := range []string{"type", "aggregate_type"} {
			if strings.Contains(a.Subject, "{"+field+"}") {
				l.requireColumn(field, "value.avro.subject", "{"+field+"}")
			}
		}
	}
	if len(v.Schema) > 0 {
		l.requireColumn("type", "value.schema", "")
	}
}

// checkDebezium checks that what format debezium needs is there, and that its
// options are not given in vain.
func (l *loader) checkDebezium() {
	v := l.config.Value
	d := v.Debezium
	if v.Format == "debezium" && v.Headers == "debezium" {
		l.requireColumn("id", "value.headers", "debezium")
		l.require(l.config.Outbox.HeadersColumn == "", "has no effect with value.format debezium", "outbox.headers_column", "value.format")
	}
	// What is given for a format that was chosen on purpose waits for another.
	const only = "has no effect without value.format debezium"
	is := v.Format == "debezium"
	idle := is || l.given("value.format")
	l.require(idle || d.Key == "string", only, "value.debezium.key", "value.format")
	l.require(idle || d.Value == "string", only, "value.debezium.value", "value.format")
	l.require(idle || d.Headers == "string", only, "value.debezium.headers", "value.format")
	l.require(idle || d.Context == "", only, "value.debezium.context", "value.format")
	l.require(idle || len(d.Envelope) == 0, only, "value.debezium.envelope", "value.format")
	l.require(idle || !d.ExpandJSON, only, "value.debezium.expand_json", "value.format")
	l.require(!is || d.Value == "json" || !d.ExpandJSON, "needs value.debezium.value json", "value.debezium.expand_json", "value.debezium.value")
	l.require(!is || d.ExpandJSON || !d.KeepNulls, "needs value.debezium.expand_json", "value.debezium.keep_nulls", "value.debezium.expand_json")
	l.require(!is || d.ExpandJSON || !d.KeepEmptyArrays, "needs value.debezium.expand_json", "value.debezium.keep_empty_arrays", "value.debezium.expand_json")
	l.require(d.Value != "bytes" || len(d.Envelope) == 0, "must not be bytes with value.debezium.envelope", "value.debezium.value", "value.debezium.envelope")
}

// requireTemplate reports the fields that a topic's template uses but that have no
// column.
func (l *loader) requireTemplate(text, user string) {
	t, _ := template.Parse(text)
	for _, field := range t.Placeholders() {
		l.requireColumn(field, user, "{"+field+"}")
	}
}

// requireColumn reports a field that a key uses but that has no column.
func (l *loader) requireColumn(field, user, use string) {
	k := schema().child("outbox").child("columns").child(field)
	if k == nil {
		return // {column:NAME}, which names its column
	}
	l.require(k.of(l.config).String() != "", "must not be empty; "+strings.TrimSpace(user+" "+use)+" needs it", k.path, user)
}

// checkMask checks that there is a key exactly where one is used.
func (l *loader) checkMask() {
	v := l.config.Value
	used := make(map[string]bool)
	for i, m := range v.Mask {
		key := fmt.Sprintf("value.mask[%d].key", i)
		if used[m.Key] = true; m.How == "remove" {
			l.require(m.Key == "", "has no effect with how: remove", key, "value.mask")
			continue
		}
		l.require(m.Key != "", "must not be empty; how: "+m.How+" needs it", key, "value.mask")
		_, there := v.Keys[m.Key]
		l.require(there || m.Key == "", show(m.Key)+" is none of value.keys", key, "value.mask")
	}
	for name := range v.Keys {
		l.require(used[name] || l.given("value.mask"), "has no effect without value.mask", "value.keys."+name)
	}
}

// checkTLS refuses what would otherwise connect less safely than was meant.
func (l *loader) checkTLS(group string, tls TLS) {
	l.require(tls.Cert == "" || tls.Key != "", "must not be empty; "+group+".cert needs it", group+".key", group+".cert")
	l.require(tls.Key == "" || tls.Cert != "", "must not be empty; "+group+".key needs it", group+".cert", group+".key")

	decided := tls.Enabled || l.given(group+".enabled")
	for _, option := range []struct{ name, value string }{
		{"ca", tls.CA}, {"cert", tls.Cert}, {"key", tls.Key}, {"server_name", tls.ServerName},
	} {
		l.require(decided || option.value == "",
			"has no effect without "+group+".enabled: true", group+"."+option.name)
	}
}

// checkSASL checks that there are credentials exactly when they are used.
func (l *loader) checkSASL(group string, sasl SASL) {
	mechanism, username, password := group+".mechanism", group+".username", group+".password"
	tokenURL, token := group+".token_url", group+".token"
	needs := "must not be empty; " + mechanism + " " + sasl.Mechanism + " needs it"
	if sasl.Mechanism != "OAUTHBEARER" {
		const only = "has no effect without kafka.sasl.mechanism OAUTHBEARER"
		decided := sasl.Mechanism == "" && l.given(mechanism)
		l.require(decided || sasl.TokenURL == "", only, tokenURL, mechanism)
		l.require(decided || sasl.TokenCA == "", only, group+".token_ca", mechanism)
		l.require(decided || sasl.Scope == "", only, group+".scope", mechanism)
		l.require(decided || sasl.Token.IsEmpty(), only, token, mechanism)
		l.require(decided || len(sasl.Extensions) == 0, only, group+".extensions", mechanism)
	}
	switch sasl.Mechanism {
	case "":
		decided := l.given(mechanism)
		l.require(decided || sasl.Username == "", "has no effect without "+mechanism, username)
		l.require(decided || sasl.Password.IsEmpty(), "has no effect without "+mechanism, password)
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		l.require(sasl.Username != "", needs, username, mechanism)
		l.require(!sasl.Password.IsEmpty(), needs, password, mechanism)
	case "OAUTHBEARER":
		if sasl.TokenURL == "" {
			l.require(!sasl.Token.IsEmpty(), "must not be empty, unless "+token+" is given", tokenURL, mechanism)
			const only = "has no effect without kafka.sasl.token_url"
			l.require(sasl.Username == "", only, username, tokenURL)
			l.require(sasl.Password.IsEmpty(), only, password, tokenURL)
			l.require(sasl.TokenCA == "", only, group+".token_ca", tokenURL)
			l.require(sasl.Scope == "", only, group+".scope", tokenURL)
			return
		}
		l.require(sasl.Token.IsEmpty(), "must be empty with "+tokenURL+": it is either this token, or one from there", token, tokenURL)
		l.require(sasl.Username != "", needs, username, mechanism)
		l.require(!sasl.Password.IsEmpty(), needs, password, mechanism)
		u, err := url.Parse(sasl.TokenURL)
		l.require(err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http"), "is no http(s) URL", tokenURL)
	case "AWS_MSK_IAM":
		l.require(sasl.Username == "" || !sasl.Password.IsEmpty(), "must not be empty; "+username+" needs it", password, username)
		l.require(sasl.Password.IsEmpty() || sasl.Username != "", "must not be empty; "+password+" needs it", username, password)
	}
}

// checkRetention checks that there is a table to remove rows from, and one to move them
// to.
func (l *loader) checkRetention(r Retention) {
	const mode, archive = "retention.mode", "retention.archive_table"
	l.require(r.Mode == "off" || l.config.Outbox.Table != Table{}, "must be off: outbox.table is empty", mode, "outbox.table")
	l.require(r.Mode != "archive" || r.ArchiveTable != Table{}, "must not be empty; "+mode+" archive needs it", archive, mode)
	l.require(r.Mode == "archive" || l.given(mode) || r.ArchiveTable == Table{}, "has no effect without "+mode+": archive", archive)
	l.require(r.ArchiveTable == Table{} || r.ArchiveTable != l.config.Outbox.Table, "must not be outbox.table", archive, "outbox.table")
}

// checkHTTP refuses half a certificate.
func (l *loader) checkHTTP(h HTTP) {
	l.require(h.TLS.Cert == "" || h.TLS.Key != "", "must not be empty; http.tls.cert needs it", "http.tls.key", "http.tls.cert")
	l.require(h.TLS.Key == "" || h.TLS.Cert != "", "must not be empty; http.tls.key needs it", "http.tls.cert", "http.tls.key")
}

func (l *loader) given(key string) bool {
	_, given := l.origins[key]
	return given
}

// require reports the first of some keys when a relation between them does not
// hold. When only others were given, the place is theirs.
func (l *loader) require(holds bool, complaint string, keys ...string) {
	if holds || slices.ContainsFunc(keys, func(key string) bool { return l.refused[key] }) {
		return
	}
	var at place
	if i := slices.IndexFunc(keys, l.given); i >= 0 {
		at = l.origins[keys[i]]
	}
	at.key = keys[0]
	l.report(at, "%s", complaint)
}
