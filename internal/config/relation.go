package config

import "slices"

// checkRelations checks keys against each other. A relation with a key that has
// a problem of its own is left out: its value is not what the user meant.
func (l *loader) checkRelations() {
	l.checkColumns()
	l.checkTLS("kafka.tls", l.config.Kafka.TLS)
	l.checkSASL("kafka.sasl", l.config.Kafka.SASL)

	delivery, retry := l.config.Delivery, l.config.Errors.Retry
	l.require(delivery.Store != "file" || delivery.File != "",
		"must not be empty; delivery.store file needs it", "delivery.file", "delivery.store")
	l.require(retry.Min <= retry.Max,
		"is more than errors.retry.max", "errors.retry.min", "errors.retry.max")
}

// checkColumns checks that what the record needs is read.
func (l *loader) checkColumns() {
	l.require(l.config.Outbox.Columns.Payload != "", "must not be empty", "outbox.columns.payload")

	_, placeholders, _ := splitTemplate(l.config.Route.Topic)
	for _, field := range placeholders {
		l.requireColumn(field, "route.topic", "{"+field+"}")
	}
	if key := l.config.Route.Key; key != "none" {
		l.requireColumn(key, "route.key", key)
	}
}

// requireColumn reports a field that a key uses but that has no column.
func (l *loader) requireColumn(field, user, use string) {
	k := schema().child("outbox").child("columns").child(field)
	if k == nil {
		return // {column:NAME}, which names its column
	}
	l.require(k.of(l.config).String() != "", "must not be empty; "+user+" "+use+" needs it", k.path, user)
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
	switch sasl.Mechanism {
	case "":
		decided := l.given(mechanism)
		l.require(decided || sasl.Username == "", "has no effect without "+mechanism, username)
		l.require(decided || sasl.Password == "", "has no effect without "+mechanism, password)
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		complaint := "must not be empty; " + mechanism + " " + sasl.Mechanism + " needs it"
		l.require(sasl.Username != "", complaint, username, mechanism)
		l.require(sasl.Password != "", complaint, password, mechanism)
	}
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
