package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// authority signs client certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	var der []byte
	der, a.key = a.sign("authority", template, template, nil)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write("ca.crt", "CERTIFICATE", der)
	return a
}

// client writes a certificate for a role and its key, and returns the keywords of a DSN
// that name them.
func (a *authority) client(role string, expires time.Duration) string {
	a.t.Helper()
	template := &x509.Certificate{NotAfter: time.Now().Add(expires), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, key := a.sign(role, template, a.cert, a.key)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return "&sslcert=" + a.write(role+".crt", "CERTIFICATE", der) + "&sslkey=" + a.write(role+".key", "PRIVATE KEY", private)
}

// sign makes a key and its certificate, by itself if signer is nil.
func (a *authority) sign(name string, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	template.NotBefore = time.Now().Add(-2 * time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(24 * time.Hour)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

func (a *authority) write(name, kind string, der []byte) (path string) {
	a.t.Helper()
	path = filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// A role that logs in by its certificate: each way in which that is wrong is said with
// what to change, and a certificate that is renewed is read with the next connection.
func TestPostgresClientCertificate(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"TLSv1.2", "TLSv1.3"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			ours, other := newAuthority(t), newAuthority(t)
			ca, err := os.ReadFile(filepath.Join(ours.dir, "ca.crt"))
			if err != nil {
				t.Fatal(err)
			}
			postgres := ownPostgres(t, testbed.PostgresOptions{TLS: true})
			// The server's authority for clients is not who signed its own certificate.
			for name, text := range map[string]string{"clients.crt": string(ca),
				"pg_hba.conf": "hostssl all app 127.0.0.1/32 cert\nhost all all 127.0.0.1/32 trust\nlocal all all trust\n"} {
				if err := os.WriteFile(filepath.Join(postgres.DataDir(), name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			s := newScenario(t, postgres, nil)
			for _, sql := range []string{"CREATE ROLE app LOGIN SUPERUSER REPLICATION", "CREATE ROLE intruder LOGIN",
				"ALTER SYSTEM SET ssl_ca_file = 'clients.crt'", "ALTER SYSTEM SET ssl_max_protocol_version = '" + version + "'", "SELECT pg_reload_conf()"} {
				s.execIn("postgres", sql)
			}
			s.extra = "errors: {retry: {min: 50ms, max: 500ms}}"
			base := "postgres://app@" + postgres.Addr() + "/" + s.database + "?sslmode=verify-full&sslrootcert=" + postgres.CertificateFile()
			app := ours.client("app", time.Hour)
			for name, test := range map[string]struct{ keywords, says string }{
				"none":               {"", "sslcert and sslkey in postgres.dsn"},
				"of another role":    {ours.client("intruder", time.Hour), "common name of the certificate"},
				"of other authority": {other.client("app", time.Hour), "the server does not accept the certificate that sslcert in postgres.dsn names"},
				"expired":            {ours.client("late", -time.Hour), "the server does not accept the certificate that sslcert in postgres.dsn names"},
			} {
				t.Run(name, func(t *testing.T) {
					s.dsn = base + test.keywords
					// A server that ends the connection can be quicker than its own words.
					waitFor(t, 30*time.Second, func() (string, bool) {
						found := s.check().failed()
						return fmt.Sprintf("check says %+v, want %q", found, test.says),
							len(found) > 0 && found[0].Check == "server" && strings.Contains(found[0].Text+" "+found[0].Fix, test.says)
					})
				})
			}
			s.dsn = base + "&sslcert=" + filepath.Join(ours.dir, "app.crt") + "&sslkey=/nowhere.key"
			if code, _, stderr := invoke(t, "run", "--config", s.configFile()); code != 2 || !strings.Contains(stderr, "postgres.dsn: the value names an sslkey that cannot be read: file does not exist") {
				t.Errorf("exit code %d: %s", code, stderr)
			}

			s.dsn = base + app
			c := s.startStreaming()
			s.events(1, 10)
			s.waitConfirmed(30 * time.Second)
			ended := func() {
				s.execIn("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
			}
			ours.client("app", -time.Hour)
			ended()
			c.waitLog("the server does not accept the certificate that sslcert", 30*time.Second)
			s.events(11, 20)
			ours.client("app", time.Hour)
			s.waitConfirmed(30 * time.Second)
			if v := s.value("SELECT min(client_dn) || ' ' || max(client_dn) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE usename = 'app'"); v != "/CN=app /CN=app" {
				t.Errorf("its connections are those of %s", v)
			}
			c.stop()
			s.verify()
		})
	}
}
