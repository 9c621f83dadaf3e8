package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outboxd/internal/config"
)

// certificate makes one that names no host, and writes it to a file.
func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// The process is asked where it listens, with the token, and by TLS only if it has
// the certificate of the configuration. Nothing else that answers is believed.
func TestAskProcess(t *testing.T) {
	cert, file := certificate(t)
	_, another := certificate(t)
	const token = "hush-hush"
	answer := func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/status":
			http.NotFound(w, r)
		case r.Header.Get("Authorization") != "Bearer "+token:
			http.Error(w, "no", http.StatusUnauthorized)
		default:
			_, _ = w.Write([]byte(`{"role": "streaming", "ready": false, "reason": "no broker"}`))
		}
	}
	plain := httptest.NewServer(http.HandlerFunc(answer))
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.HandlerFunc(answer))
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	secure.StartTLS()
	defer secure.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer other.Close()
	var leaked string
	redirect := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/status" {
			leaked = r.Header.Get("Authorization")
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer redirect.Close()

	address := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	_, port, err := net.SplitHostPort(address(plain))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		listen string
		token  string
		cert   string
		err    string
	}{
		{"plain", address(plain), token, "", ""},
		{"every address", "0.0.0.0:" + port, token, "", ""},
		{"every address, in short", ":" + port, token, "", ""},
		{"TLS", address(secure), token, file, ""},
		{"another token", address(plain), "wrong", "", "401"},
		{"another certificate", address(secure), token, another, "not that of http.tls.cert"},
		{"no TLS where it is expected", address(plain), token, file, "nothing answers"},
		{"no certificate", address(secure), token, filepath.Join(t.TempDir(), "none"), "http.tls.cert"},
		{"another program", address(other), token, "", "is no outboxd"},
		{"a redirect", address(redirect), token, "", "302"},
		{"nobody", "127.0.0.1:1", token, "", "nothing answers at http.listen"},
		{"off", "", token, "", "http.listen is off"},
		{"any port", "127.0.0.1:0", token, "", "whichever is free"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, err := askProcess(t.Context(), config.HTTP{Listen: test.listen, Token: config.NewSecret(test.token), TLS: config.HTTPTLS{Cert: test.cert}})
			switch {
			case test.err == "" && (err != nil || p.Role != "streaming" || p.Reason != "no broker"):
				t.Errorf("%+v, %v", p, err)
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("%v", err)
			case err != nil && strings.Contains(err.Error(), token):
				t.Errorf("the token shows: %v", err)
			}
		})
	}
	if leaked != "" {
		t.Error("the token follows a redirect")
	}
}
