package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"outboxd/internal/testbed"
)

// Kafka is reached over TLS, with certificates on both sides and a SCRAM login: what is
// wrong is said while it is tried again, and with what is right every event is
// delivered while the broker and the connector are killed.
func TestKafkaOverTLS(t *testing.T) {
	t.Parallel()
	kafka := ownKafka(t, testbed.KafkaOptions{TLS: true, Settings: map[string]string{
		"listener.security.protocol.map":                      "CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"listener.name.client.ssl.client.auth":                "required",
		"listener.name.client.sasl.enabled.mechanisms":        "SCRAM-SHA-512",
		"listener.name.client.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
	}})
	s := newScenario(t, nil, kafka)
	created, err := s.admin().AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: "outboxd", Mechanism: kadm.ScramSha512, Iterations: 4096, Password: "right"}})
	if err == nil {
		err = created.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.brokersInExtra = true
	login := func(password, tls string) {
		s.extra = fmt.Sprintf(`kafka:
  brokers: [%q]
  tls: {enabled: true%s}
  sasl: {mechanism: SCRAM-SHA-512, username: outboxd, password: %s}
`, kafka.Brokers()[0], tls, password)
	}
	trusted := fmt.Sprintf(", ca: %q, cert: %q, key: %q", kafka.CertificateFile(), kafka.CertificateFile(), kafka.KeyFile())
	for i, wrong := range []struct{ password, tls, says string }{
		{"right", "", "name the authority of the brokers' certificate by kafka.tls.ca"},
		{"wrong", trusted, "look at kafka.sasl"},
	} {
		login(wrong.password, wrong.tls)
		c := s.startStreaming()
		s.exec(fmt.Sprintf(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('a', 't0', '{"n": %d}')`, i))
		c.waitLog(wrong.says, 60*time.Second)
		c.kill()
	}
	login("right", trusted)
	c := s.startStreaming()
	l := s.startLoad(4, 30, 2*time.Millisecond, 17)
	l.more(1000)
	if err := kafka.Kill(0); err != nil {
		t.Fatal(err)
	}
	if err := kafka.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	l.more(1000)
	c.kill()
	s.checkpoint()
	c = s.startStreaming()
	l.more(1000)
	l.stop()
	s.waitConfirmed(90 * time.Second)
	c.stop()
	s.checkpoint()
	s.verify()
}
