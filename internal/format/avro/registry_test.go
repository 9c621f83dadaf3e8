package avro

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"outboxd/internal/format"
	"outboxd/internal/format/formattest"
)

// Who may read a registry need not be able to write, while nothing is missing.
func TestRegistryThatMayOnlyBeRead(t *testing.T) {
	r := newFakeRegistry(t)
	r.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/versions") {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"error_code": 40301, "message": "no write"}`)
			return true
		}
		return false
	})
	a := r.encoder(t, nil)
	_, err := a.append(nil, fullEvent(), "orders")
	var passing *format.RegistryError
	if !errors.As(err, &passing) {
		t.Fatalf("%v", err)
	}
	formattest.Says(t, err, "403", "no write", "value.avro.register: false", "its rights")
	for name, held := range map[string]string{
		"as it is":                 envelopeText,
		"with other documentation": strings.ReplaceAll(envelopeText, "The event's id.", "Id."),
	} {
		r.schemas["orders-value"], r.asked = []string{held}, nil
		if _, err := r.encoder(t, nil).append(nil, fullEvent(), "orders"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if slices.Contains(r.asked, "POST /subjects/orders-value/versions") {
			t.Errorf("%s: it was registered again: %q", name, r.asked)
		}
	}
	// Who may only write gets it written.
	r.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && !strings.HasSuffix(r.URL.Path, "/versions") {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	})
	if _, err := r.encoder(t, nil).append(nil, fullEvent(), "payments"); err != nil {
		t.Error(err)
	}
}

// A registry may answer with what it was sent, and with what it likes.
func TestRegistryAnswersAreNotPassedOn(t *testing.T) {
	r := newFakeRegistry(t)
	r.set(func(w http.ResponseWriter, r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, "<html>you sent "+r.Header.Get("Authorization")+", that is "+user+":"+password+", <script>ours</script>"+strings.Repeat("x", 5000))
		return true
	})
	a := r.encoder(t, func(o *Options) { o.Username, o.Password = "reg", "hunter/2 reg" })
	_, err := a.append(nil, fullEvent(), "orders")
	formattest.Says(t, err, "401", "you sent", "(hidden)")
	if text := err.Error(); strings.Contains(text, "hunter") || strings.Contains(text, "cmVnOmh1bnRlci8yIHJlZw") || len(text) > 1500 {
		t.Errorf("the error shows the password, or too much: %s", text)
	}
	public := format.Public(err)
	formattest.Says(t, public, "401", `"orders-value"`, "value.avro.username")
	if text := public.Error(); strings.Contains(text, "you sent") || strings.Contains(text, "script") || len(text) > 500 {
		t.Errorf("shown over HTTP: %s", text)
	}
	// What is ours is shown as it is.
	if other := errors.New("other"); format.Public(other) != other {
		t.Error("another error is changed")
	}
}

// The registry's password is asked for at each request, its certificates at each
// connection.
func TestRegistrySecretsRotate(t *testing.T) {
	var password atomic.Value
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, given, _ := r.BasicAuth()
		password.Store(given)
		http.Error(w, `{"error_code": 40101, "message": "no"}`, http.StatusUnauthorized)
	}))
	t.Cleanup(server.Close)
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	file, secure := errors.New("${file:/password}: file does not exist"), &tls.Config{}
	now := ""
	r, err := newRegistry(Options{
		Registry: server.URL, Username: "app", Password: "first",
		ReadPassword: func() (string, error) { return now, file },
		ReadTLS:      func() (*tls.Config, error) { return secure, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() string {
		_, err := r.envelope("s", true)
		if err == nil {
			t.Fatal("the registry refuses")
		}
		return err.Error()
	}
	if got := ask(); !strings.Contains(got, "value.avro.password: ${file:/password}: file does not exist") {
		t.Errorf("without the file: %s", got)
	}
	file = nil
	if got := ask(); !strings.Contains(got, "unknown authority") {
		t.Errorf("with another authority: %s", got)
	}
	secure = &tls.Config{RootCAs: roots}
	for _, now = range []string{"old", "new"} {
		if ask(); password.Load() != now {
			t.Errorf("asked with %v, want %s", password.Load(), now)
		}
	}
}
