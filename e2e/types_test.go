package e2e

import (
	"strings"
	"testing"
	"time"
)

// WAL is decoded with the catalog of then: a domain that was dropped and recreated
// before its events were read, or while they are, is an OID that nobody knows.
func TestDomainsThatWereRecreated(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	const domains = `CREATE DOMAIN document AS jsonb; CREATE DOMAIN flag AS boolean;
		ALTER TABLE outbox DROP COLUMN IF EXISTS payload, ADD payload document, DROP COLUMN IF EXISTS urgent, ADD urgent flag`
	s.exec(domains)
	s.route = `{topic: "` + s.topic + `.t0"}`
	s.extra = "outbox: {headers: {urgent: urgent}}\nvalue: {format: json}"
	c := s.startStreaming()
	insert := func(id string) {
		s.exec(`INSERT INTO outbox (type, aggregatetype, aggregateid, payload, urgent) VALUES ('t', 'a', '` + id + `', '{"n": 1}', true)`)
	}
	recreate := func() { s.exec("DROP DOMAIN document CASCADE; DROP DOMAIN flag CASCADE; " + domains) }
	insert("first")
	s.waitConfirmed(60 * time.Second)
	recreate()
	insert("while streaming")
	s.waitConfirmed(60 * time.Second)
	c.stop()
	insert("written before")
	recreate()
	insert("written behind")
	c = s.startStreaming()
	s.waitConfirmed(60 * time.Second)
	c.stop()
	records := s.read()
	if len(records) != 4 {
		t.Fatalf("%d records: %v", len(records), records)
	}
	for _, r := range records {
		if r.header("urgent") != "true" || !strings.HasSuffix(string(r.value), `"payload":{"n": 1}}`) {
			t.Errorf("%s: urgent %q, value %s", r.key, r.header("urgent"), r.value)
		}
	}
}
