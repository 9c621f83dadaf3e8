package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"outboxd/internal/config"
)

// endpoint is a token endpoint over TLS, whose tokens are the number of the question.
type endpoint struct {
	*httptest.Server
	secret  string
	expires int // seconds
	asked   int
	form    url.Values
	answer  func(w http.ResponseWriter) // instead of a token
}

func newEndpoint(t *testing.T) (*endpoint, config.SASL) {
	t.Helper()
	e := &endpoint{secret: "first", expires: 3600}
	e.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.asked++
		id, secret, _ := r.BasicAuth()
		if e.form = nil; r.ParseForm() == nil {
			e.form = r.PostForm
		}
		w.Header().Set("Content-Type", "application/json")
		switch {
		case e.answer != nil:
			e.answer(w)
		case id != "outboxd" || secret != e.secret:
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error": "invalid_client", "error_description": "secret %s is wrong"}`, secret)
		default:
			fmt.Fprintf(w, `{"access_token": "token-%d", "token_type": "Bearer", "expires_in": %d}`, e.asked, e.expires)
		}
	}))
	t.Cleanup(e.Close)
	dir := t.TempDir()
	ca, secret := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "secret")
	writeSecret(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.Certificate().Raw})))
	writeSecret(t, secret, "first")
	file := filepath.Join(dir, "outboxd.yaml")
	writeSecret(t, file, fmt.Sprintf(`postgres: {dsn: host=db}
kafka:
  brokers: [k]
  sasl: {mechanism: OAUTHBEARER, token_url: %q, token_ca: %q, username: outboxd, password: "${file:%s}", scope: "kafka more"}
`, e.URL, ca, secret))
	cfg, err := config.Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e, cfg.Kafka.SASL
}

func writeSecret(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// login returns what a login sends first.
func login(t *testing.T, cfg config.SASL, broker string) (string, error) {
	t.Helper()
	_, first, err := saslMechanism(cfg).Authenticate(t.Context(), broker)
	return string(first), err
}

func TestTokensAreUsedUntilTheyExpire(t *testing.T) {
	e, cfg := newEndpoint(t)
	cfg.Extensions = map[string]string{"logicalCluster": "lkc-1"}
	mechanism := saslMechanism(cfg)
	first := func() string {
		t.Helper()
		_, first, err := mechanism.Authenticate(t.Context(), "k:9092")
		if err != nil {
			t.Fatal(err)
		}
		return string(first)
	}
	// RFC 7628, section 3.1.
	if got, want := first(), "n,,\x01auth=Bearer token-1\x01logicalCluster=lkc-1\x01\x01"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if e.form.Get("grant_type") != "client_credentials" || e.form.Get("scope") != "kafka more" {
		t.Errorf("the endpoint was asked for %v", e.form)
	}
	if first(); e.asked != 1 {
		t.Errorf("the endpoint was asked %d times for a token that is valid", e.asked)
	}
	// A token that expires soon is not taken again.
	e, cfg = newEndpoint(t)
	e.expires = 5
	mechanism = saslMechanism(cfg)
	first()
	if got := first(); !strings.Contains(got, "token-2") {
		t.Errorf("a token that was about to expire was used again: %q", got)
	}
}

// The secret's file may be replaced at any time.
func TestSecretOfTokensRotates(t *testing.T) {
	e, cfg := newEndpoint(t)
	tokens := tokens{cfg: cfg}
	if _, err := tokens.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.secret = "second"
	writeSecret(t, filepath.Join(filepath.Dir(cfg.TokenCA), "secret"), "second")
	if token, err := tokens.get(t.Context()); err != nil || token != "token-2" {
		t.Errorf("%q (%v)", token, err)
	}
}

// Errors name the key, and quote neither the secret nor what the endpoint says.
func TestTokenEndpointFails(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(*endpoint, *config.SASL)
		want  string
	}{
		"wrong secret": {func(e *endpoint, _ *config.SASL) { e.secret = "other" }, "401 Unauthorized: invalid_client; look at kafka.sasl.username"},
		"no answer of ours": {func(e *endpoint, _ *config.SASL) {
			e.answer = func(w http.ResponseWriter) { http.Error(w, "first", http.StatusBadGateway) }
		}, "502 Bad Gateway; look at"},
		"no token":          {func(e *endpoint, _ *config.SASL) { e.answer = func(w http.ResponseWriter) { fmt.Fprint(w, "{}") } }, "missing access_token"},
		"not there":         {func(e *endpoint, _ *config.SASL) { e.Close() }, "kafka.sasl.token_url https://127.0.0.1"},
		"unknown authority": {func(_ *endpoint, c *config.SASL) { c.TokenCA = "" }, "certificate signed by unknown authority"},
		"no authority":      {func(_ *endpoint, c *config.SASL) { c.TokenCA = os.DevNull }, "kafka.sasl.token_ca: " + os.DevNull + " holds no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			e, cfg := newEndpoint(t)
			test.spoil(e, &cfg)
			_, err := login(t, cfg, "k:9092")
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "kafka.sasl.token_") {
				t.Fatalf("%v, want %q", err, test.want)
			}
			if strings.Contains(err.Error(), "first") {
				t.Errorf("the error quotes the answer: %v", err)
			}
		})
	}
}

// A token from a file, as Kubernetes projects them, is read for each login.
func TestTokenOfAFile(t *testing.T) {
	dir := t.TempDir()
	token, file := filepath.Join(dir, "token"), filepath.Join(dir, "outboxd.yaml")
	writeSecret(t, token, "one\n")
	writeSecret(t, file, fmt.Sprintf("postgres: {dsn: host=db}\nkafka: {brokers: [k], sasl: {mechanism: OAUTHBEARER, token: '${file:%s}'}}\n", token))
	cfg, err := config.Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one", "two"} {
		writeSecret(t, token, want+"\n")
		if got, err := login(t, cfg.Kafka.SASL, "k:9092"); err != nil || got != "n,,\x01auth=Bearer "+want+"\x01\x01" {
			t.Errorf("%q (%v), want %s", got, err, want)
		}
	}
}

// The signature is the one that AWS's own signer makes.
func TestSignatureForMSK(t *testing.T) {
	const host = "b-1.shop.abc123.c2.kafka.eu-west-1.amazonaws.com"
	for name, c := range map[string]struct {
		cfg     config.SASL
		session string
	}{
		"a key that is given": {cfg: config.SASL{Mechanism: "AWS_MSK_IAM", Username: "AKIDEXAMPLE", Password: config.NewSecret("wJalrXUtnFEMI/K7MDENG")}},
		"the environment's":   {cfg: config.SASL{Mechanism: "AWS_MSK_IAM"}, session: "a session/token+of the role="},
	} {
		t.Run(name, func(t *testing.T) {
			credentials := sdk.Credentials{AccessKeyID: c.cfg.Username, SecretAccessKey: c.cfg.Password.Reveal(), SessionToken: c.session}
			if c.session != "" {
				credentials.AccessKeyID, credentials.SecretAccessKey = "ASIAEXAMPLE", "secret of the role"
				t.Setenv("AWS_ACCESS_KEY_ID", credentials.AccessKeyID)
				t.Setenv("AWS_SECRET_ACCESS_KEY", credentials.SecretAccessKey)
				t.Setenv("AWS_SESSION_TOKEN", credentials.SessionToken)
			}
			first, err := login(t, c.cfg, host+":9098")
			if err != nil {
				t.Fatal(err)
			}
			var sent map[string]string
			if err := json.Unmarshal([]byte(first), &sent); err != nil {
				t.Fatalf("%v: %s", err, first)
			}
			at, err := time.Parse("20060102T150405Z", sent["x-amz-date"])
			if err != nil {
				t.Fatal(err)
			}
			query := url.Values{"Action": {"kafka-cluster:Connect"}, "X-Amz-Expires": {sent["x-amz-expires"]}}
			request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://"+host+"/?"+query.Encode(), nil)
			if err != nil {
				t.Fatal(err)
			}
			const emptyBody = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
			signed, _, err := v4.NewSigner().PresignHTTP(t.Context(), credentials, request, emptyBody, "kafka-cluster", "eu-west-1", at)
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(signed)
			if err != nil {
				t.Fatal(err)
			}
			for sentName, name := range map[string]string{"x-amz-signature": "X-Amz-Signature", "x-amz-credential": "X-Amz-Credential", "x-amz-security-token": "X-Amz-Security-Token"} {
				if want := u.Query().Get(name); sent[sentName] != want {
					t.Errorf("%s is %q, AWS's signer has %q", sentName, sent[sentName], want)
				}
			}
			if sent["host"] != host {
				t.Errorf("for host %s", sent["host"])
			}
		})
	}
}

// Without credentials anywhere the error says where to put them.
func TestNoCredentialsForMSK(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("HOME", t.TempDir())
	_, err := login(t, config.SASL{Mechanism: "AWS_MSK_IAM"}, "b-1.shop.abc123.c2.kafka.eu-west-1.amazonaws.com:9098")
	if err == nil || !strings.Contains(err.Error(), "give them by kafka.sasl.username") {
		t.Errorf("%v", err)
	}
}
