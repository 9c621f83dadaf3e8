package avro

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"outboxd/internal/format/formattest"
)

// authority signs certificates for servers at 127.0.0.1 and for clients.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	made := a.issue(template, "127.0.0.1", -time.Hour, time.Hour)
	var err error
	if a.cert, err = x509.ParseCertificate(made.Certificate[0]); err != nil {
		t.Fatal(err)
	}
	a.key = made.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) issue(template *x509.Certificate, ip string, from, to time.Duration) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	template.IPAddresses = []net.IP{net.ParseIP(ip)}
	template.NotBefore, template.NotAfter = time.Now().Add(from), time.Now().Add(to)
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) leaf(ip string, from, to time.Duration) tls.Certificate {
	a.t.Helper()
	return a.issue(&x509.Certificate{}, ip, from, to)
}

// Each fault of TLS to a registry names the key to change, over either version; a client
// certificate that fits is let in.
func TestRegistryTLS(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	good := ours.leaf("127.0.0.1", -time.Hour, time.Hour)
	mine := []tls.Certificate{ours.leaf("127.0.0.3", -time.Hour, time.Hour)}
	for name, test := range map[string]struct {
		server  tls.Certificate
		roots   *authority
		clients *authority // who signs clients' certificates; nil: none are wanted
		mine    []tls.Certificate
		plain   bool   // the server speaks no TLS
		says    string // "": the registry answers
	}{
		"all is well":                   {server: good, roots: ours},
		"another authority":             {server: good, roots: other, says: "; name the authority of the registry's certificate by value.avro.tls.ca"},
		"another host":                  {server: ours.leaf("127.0.0.2", -time.Hour, time.Hour), roots: ours, says: "; name a host of the registry's certificate by value.avro.tls.server_name"},
		"expired":                       {server: ours.leaf("127.0.0.1", -2*time.Hour, -time.Hour), roots: ours, says: "; the registry's certificate has expired or is not yet valid"},
		"not yet valid":                 {server: ours.leaf("127.0.0.1", time.Hour, 2*time.Hour), roots: ours, says: "; the registry's certificate has expired or is not yet valid"},
		"no TLS":                        {plain: true, roots: ours, says: "; it speaks no TLS there, look at value.avro.registry"},
		"client certificate":            {server: good, roots: ours, clients: ours, mine: mine},
		"no client certificate":         {server: good, roots: ours, clients: ours, says: "a client certificate"},
		"client of another authority":   {server: good, roots: ours, clients: other, mine: mine, says: "; the registry wants a client certificate that it accepts: give value.avro.tls.cert"},
		"client certificate is too old": {server: good, roots: ours, clients: ours, mine: []tls.Certificate{ours.leaf("127.0.0.3", -2*time.Hour, -time.Hour)}, says: "; the registry wants a client certificate that it accepts: give value.avro.tls.cert"},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(name+", "+tls.VersionName(version), func(t *testing.T) {
				t.Parallel()
				server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, `{"id": 7, "version": 1, "subject": "s", "schema": "\"string\""}`)
				}))
				server.Config.ErrorLog = log.New(io.Discard, "", 0)
				server.TLS = &tls.Config{Certificates: []tls.Certificate{test.server}, MaxVersion: version}
				if test.clients != nil {
					server.TLS.ClientAuth, server.TLS.ClientCAs = tls.RequireAndVerifyClientCert, test.clients.pool
				}
				t.Cleanup(server.Close)
				if test.plain {
					server.Start()
				} else {
					server.StartTLS()
				}
				config := &tls.Config{RootCAs: test.roots.pool,
					// A certificate of whatever authority: the server is to refuse it.
					GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
						if test.mine == nil {
							return new(tls.Certificate), nil
						}
						return &test.mine[0], nil
					}}
				r, err := newRegistry(Options{Registry: strings.Replace(server.URL, "http:", "https:", 1), ReadTLS: func() (*tls.Config, error) { return config, nil }})
				if err != nil {
					t.Fatal(err)
				}
				if test.says == "" {
					if id, err := r.envelope("s", true); err != nil || id != 7 {
						t.Errorf("schema %d: %v", id, err)
					}
					return
				}
				// With TLS 1.3 the server can end the connection before its reason is read.
				for range 50 {
					if _, err = r.envelope("s", true); err == nil || strings.Contains(err.Error(), test.says) {
						break
					}
				}
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%v\nwant %s", err, test.says)
				}
			})
		}
	}
}

// A token is read for each request, and is what a refusal is about.
func TestRegistryToken(t *testing.T) {
	var now, sent string
	var file error
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if sent = r.Header.Get("Authorization"); sent == "Bearer good" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"id": 7, "version": 1, "subject": "s", "schema": "\"string\""}`)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "I do not know "+sent)
	}))
	t.Cleanup(server.Close)
	r, err := newRegistry(Options{Registry: server.URL, ReadToken: func() (string, error) { return now, file }})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, err := r.newest(&subject{name: "s"})
		return err
	}
	for _, now = range []string{"expired", "revoked"} {
		err := ask()
		formattest.Says(t, err, "401", "I do not know Bearer (hidden)", "; check value.avro.token and its rights")
		if strings.Contains(err.Error(), now) || sent != "Bearer "+now {
			t.Errorf("asked with %q: %v", sent, err)
		}
	}
	if now = "good"; ask() != nil {
		t.Errorf("with the right token: %v", ask())
	}
	file = errors.New("${file:/token}: file does not exist")
	formattest.Says(t, ask(), "value.avro.token: ${file:/token}: file does not exist")
	file, now = nil, "two\nlines"
	if err := ask(); err == nil || strings.Contains(err.Error(), "two") || !strings.Contains(err.Error(), "value.avro.token") {
		t.Errorf("with a token that is none: %v", err)
	}
}

// A registry may repeat credentials that were read just now.
func TestRegistryHidesWhatWasReadNow(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "you sent "+r.Header.Get("Authorization")+", that is "+password)
	}))
	t.Cleanup(server.Close)
	for _, password := range []string{"hunter2", "hunter3"} {
		r, err := newRegistry(Options{Registry: server.URL, Username: "app", ReadPassword: func() (string, error) { return password, nil }})
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.newest(&subject{name: "s"})
		if err == nil || strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "YXBwOmh1bnRlc") || !strings.Contains(err.Error(), "(hidden)") {
			t.Errorf("%v", err)
		}
	}
}
