package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// identityProvider gives tokens to a client that knows the secret, and tells brokers
// by which key they are signed.
type identityProvider struct {
	*httptest.Server
	key    *rsa.PrivateKey
	tokens atomic.Int64 // that were given
}

const (
	tokenSecret   = "the secret of the client"
	tokenLifetime = 15 * time.Second
)

func newIdentityProvider(t *testing.T) *identityProvider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &identityProvider{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if id, secret, _ := r.BasicAuth(); id != "outboxd" || secret != "the+secret+of+the+client" { // form-encoded, RFC 6749 section 2.3.1
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error": "invalid_client"}`)
			return
		}
		token, err := p.token()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		p.tokens.Add(1)
		fmt.Fprintf(w, `{"access_token": %q, "token_type": "Bearer", "expires_in": %d}`, token, int(tokenLifetime.Seconds()))
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "1",
			"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
			"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
		}}})
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// token returns a signed token, RFC 7519.
func (p *identityProvider) token() (string, error) {
	now := time.Now()
	claims, err := json.Marshal(map[string]any{"sub": "outboxd", "aud": "kafka", "iss": "test", "iat": now.Unix(), "exp": now.Add(tokenLifetime).Unix(), "scope": "kafka"})
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT","kid":"1"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, p.key, crypto.SHA256, digest[:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

// Brokers that take tokens, and ask for another one every few seconds: nothing is lost
// and nothing repeated. A secret that is wrong is said, and may be put right in its file
// while outboxd runs.
func TestKafkaWithTokens(t *testing.T) {
	t.Parallel()
	idp := newIdentityProvider(t)
	const oauth = "org.apache.kafka.common.security.oauthbearer."
	kafka := ownKafka(t, testbed.KafkaOptions{
		JVM: []string{"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=" + idp.URL + "/keys"},
		Settings: map[string]string{
			"listener.security.protocol.map":                                          "CLIENT:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
			"listener.name.client.sasl.enabled.mechanisms":                            "OAUTHBEARER",
			"listener.name.client.oauthbearer.sasl.jaas.config":                       oauth + "OAuthBearerLoginModule required;",
			"listener.name.client.oauthbearer.sasl.server.callback.handler.class":     oauth + "OAuthBearerValidatorCallbackHandler",
			"listener.name.client.oauthbearer.sasl.oauthbearer.jwks.endpoint.url":     idp.URL + "/keys",
			"listener.name.client.oauthbearer.sasl.oauthbearer.expected.audience":     "kafka",
			"listener.name.client.oauthbearer.connections.max.reauth.ms":              "2000",
			"listener.name.client.oauthbearer.sasl.oauthbearer.clock.skew.seconds":    "5",
			"listener.name.client.oauthbearer.sasl.oauthbearer.scope.claim.name":      "scope",
			"listener.name.client.oauthbearer.sasl.oauthbearer.sub.claim.name":        "sub",
			"listener.name.client.oauthbearer.sasl.oauthbearer.jwks.endpoint.refresh": "60000",
		},
	})
	s := newScenario(t, nil, kafka)
	secret := filepath.Join(t.TempDir(), "secret")
	replace := func(text string) {
		if err := os.WriteFile(secret, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.brokersInExtra = true
	s.extra = fmt.Sprintf(`kafka:
  brokers: [%q]
  sasl: {mechanism: OAUTHBEARER, token_url: %q, username: outboxd, password: "${file:%s}", scope: kafka}
`, kafka.Brokers()[0], idp.URL+"/token", secret)
	replace("wrong")
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('a', 't0', '{"n": 0}')`)
	c.waitLog("it answers 401 Unauthorized: invalid_client; look at kafka.sasl.username", 60*time.Second)
	replace(tokenSecret)
	l := s.startLoad(4, 30, 2*time.Millisecond, 17)
	begin := idp.tokens.Load()
	waitFor(t, 60*time.Second, func() (string, bool) { return "no token was replaced", idp.tokens.Load() >= begin+3 })
	l.more(1000)
	l.stop()
	s.waitConfirmed(60 * time.Second)
	c.stop()
	if r := s.verify(); r.repeated != 0 {
		t.Errorf("%d records were published twice: %+v", r.repeated, r)
	}
}
