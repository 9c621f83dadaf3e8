package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// between is a man in the middle of a connection to PostgreSQL. Without a certificate it
// says that the server has no TLS; with one it ends TLS itself. It passes on the rest, and
// hears what the client says.
type between struct {
	net.Listener
	server string
	own    *tls.Certificate
	heard  chan []byte
}

func newBetween(t *testing.T, server string, own *tls.Certificate) *between {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &between{listener, server, own, make(chan []byte, 1000)}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go b.serve(client)
		}
	}()
	return b
}

func (b *between) serve(client net.Conn) {
	defer client.Close()
	if _, err := io.ReadFull(client, make([]byte, 8)); err != nil { // SSLRequest
		return
	}
	server, err := net.Dial("tcp", b.server)
	if err != nil {
		return
	}
	defer server.Close()
	if b.own == nil {
		_, err = client.Write([]byte{'N'})
	} else {
		if _, err = client.Write([]byte{'S'}); err != nil {
			return
		}
		client = tls.Server(client, &tls.Config{Certificates: []tls.Certificate{*b.own}})
		if _, err = server.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil {
			return
		}
		if _, err = io.ReadFull(server, make([]byte, 1)); err != nil {
			return
		}
		server = tls.Client(server, &tls.Config{InsecureSkipVerify: true})
	}
	if err != nil {
		return
	}
	go func() {
		defer client.Close()
		_, _ = io.Copy(client, server)
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if n > 0 {
			select {
			case b.heard <- append([]byte(nil), buffer[:n]...):
			default:
			}
			if _, err := server.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// said is everything that clients said until now.
func (b *between) said() (all string) {
	for {
		select {
		case more := <-b.heard:
			all += string(more)
		default:
			return all
		}
	}
}

// PostgreSQL with SCRAM and channel binding over TLS works; a server, or somebody in its
// place, that wants less is refused, with one line that names the key, and gets no password.
func TestPostgresDowngrade(t *testing.T) {
	t.Parallel()
	const password = "open-sesame-8"
	postgres := ownPostgres(t, testbed.PostgresOptions{TLS: true})
	hba := "host all clear 127.0.0.1/32 password\nhost all old 127.0.0.1/32 md5\nhost all app 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\nlocal all all trust\n"
	if err := os.WriteFile(filepath.Join(postgres.DataDir(), "pg_hba.conf"), []byte(hba), 0o644); err != nil {
		t.Fatal(err)
	}
	s := newScenario(t, postgres, nil)
	for _, sql := range []string{
		"CREATE ROLE app LOGIN SUPERUSER REPLICATION PASSWORD '" + password + "'", "CREATE ROLE clear LOGIN SUPERUSER REPLICATION PASSWORD '" + password + "'",
		"SET password_encryption = md5; CREATE ROLE old LOGIN SUPERUSER REPLICATION PASSWORD '" + password + "'", "SELECT pg_reload_conf()",
	} {
		s.execIn("postgres", sql)
	}
	s.extra = "errors: {retry: {min: 50ms, max: 500ms}}"
	theirs := newAuthority(t)
	theirs.client("between", time.Hour)
	pair, err := tls.LoadX509KeyPair(filepath.Join(theirs.dir, "between.crt"), filepath.Join(theirs.dir, "between.key"))
	if err != nil {
		t.Fatal(err)
	}
	plain, other := newBetween(t, postgres.Addr(), nil), newBetween(t, postgres.Addr(), &pair)
	direct := func(role string) string { return role + ":" + password + "@" + postgres.Addr() }
	trusted := "&sslrootcert=" + postgres.CertificateFile()
	for name, test := range map[string]struct{ at, keywords, says string }{
		"TLS is taken away":                      {"app:" + password + "@" + plain.Addr().String(), "sslmode=require", "sslmode=disable in postgres.dsn only where"},
		"TLS is ended by another":                {"app:" + password + "@" + other.Addr().String(), "sslmode=verify-full" + trusted, "name the host in postgres.dsn as the certificate does"},
		"TLS is ended by another, not looked at": {"app:" + password + "@" + other.Addr().String(), "sslmode=require&channel_binding=require", "ends the TLS connection with another certificate"},
		"the password in clear":                  {direct("clear"), "sslmode=disable&require_auth=scram-sha-256", "require_auth in postgres.dsn"},
		"the password by MD5":                    {direct("old"), "sslmode=verify-full&require_auth=scram-sha-256" + trusted, "require_auth in postgres.dsn"},
		"no channel binding":                     {direct("old"), "sslmode=verify-full&channel_binding=require" + trusted, "channel_binding=require in postgres.dsn needs TLS"},
		"channel binding without TLS":            {direct("app"), "sslmode=disable&channel_binding=require", "channel_binding=require in postgres.dsn needs TLS"},
		"nobody is asked":                        {postgres.Addr(), "sslmode=disable&user=postgres&require_auth=scram-sha-256", "require_auth in postgres.dsn"},
	} {
		t.Run(name, func(t *testing.T) {
			s.dsn = "postgres://" + test.at + "/" + s.database + "?" + test.keywords
			waitFor(t, 30*time.Second, func() (string, bool) {
				found := s.check().failed()
				return fmt.Sprintf("check says %+v, want %q", found, test.says),
					len(found) > 0 && found[0].Check == "server" && strings.Contains(found[0].Text+" "+found[0].Fix, test.says)
			})
		})
	}
	if said := plain.said() + other.said(); strings.Contains(said, password) {
		t.Errorf("who stands between heard the password: %q", said)
	}

	s.dsn = "postgres://" + direct("app") + "/" + s.database + "?sslmode=verify-full&channel_binding=require&require_auth=scram-sha-256" + trusted
	c := s.startStreaming()
	s.events(1, 10)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	s.checkpoint()
	s.verify()
}

// TLS on one side only is said in one line with the key, whichever side it is.
func TestKafkaDowngrade(t *testing.T) {
	t.Parallel()
	secured := ownKafka(t, testbed.KafkaOptions{TLS: true})
	for name, test := range map[string]struct {
		kafka *testbed.Kafka
		keys  string
		says  string
	}{
		"TLS is taken away":             {sharedKafka(t), "tls: {enabled: true}", "kafka.tls.enabled: false only where"},
		"TLS is wanted":                 {secured, "tls: {enabled: false}", "kafka.tls.enabled"},
		"SASL where nobody asks for it": {sharedKafka(t), "sasl: {mechanism: SCRAM-SHA-512, username: a, password: b}", "kafka.sasl"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t, nil, test.kafka)
			s.brokersInExtra = true
			s.extra = fmt.Sprintf("kafka: {brokers: [%q], %s}", s.brokers[0], test.keys)
			found := s.check().failed()
			if len(found) == 0 || !strings.Contains(found[0].Fix, test.says) {
				t.Errorf("check says %+v, want %q", found, test.says)
			}
			// And the process says it while it tries again.
			c := s.startStreaming()
			s.events(1, 1)
			c.waitLog(test.says, 60*time.Second)
			c.kill()
		})
	}
}
