package status

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func withStop(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx, cancel
}

// The page is one file that needs nothing from elsewhere, under a policy that forbids it.
func TestPageIsAlone(t *testing.T) {
	at := "http://" + serveOn(t, "127.0.0.1:0", HTTP{})
	resp, err := http.Get(at + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || string(body) != page || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%v, %d, %d bytes, %v", err, resp.StatusCode, len(body), resp.Header)
	}
	policy := resp.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "connect-src 'self'", "script-src 'sha256-", "style-src 'sha256-", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("no %s in %s", want, policy)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
		t.Errorf("the policy is lax: %s", policy)
	}
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, address := range regexp.MustCompile(`[a-z]+://[^"'\s]*`).FindAllString(page, -1) {
		if address != "http://www.w3.org/2000/svg" { // a name, which nobody asks for
			t.Errorf("the page names %s", address)
		}
	}
	for _, forbidden := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", " onclick="} {
		if strings.Contains(page, forbidden) {
			t.Errorf("the page has %s", forbidden)
		}
	}
	if strings.Count(page, "<script") != 1 || strings.Count(page, "<style") != 1 {
		t.Error("the hashes are of one script and one style")
	}
	// No other path is the page.
	for _, path := range []string{"/index.html", "/status/", "/status/history/", "//", "/favicon.ico"} {
		if code := request(t, &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, at+path, "localhost", ""); code == http.StatusOK {
			t.Errorf("%s is answered", path)
		}
	}
}

// Who has no token gets the page, which asks for it, with the code that says so, and
// nothing else.
func TestPageWithoutToken(t *testing.T) {
	at := "http://" + serveOn(t, "127.0.0.1:0", HTTP{Token: func() (string, error) { return "token", nil }})
	for path, want := range map[string]string{"/": page, "/status": "this needs the bearer token", "/status/history": "this needs the bearer token", "/metrics": "this needs the bearer token"} {
		resp, err := http.Get(at + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(string(body), want) || resp.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %v, %d %.100s", path, err, resp.StatusCode, body)
		}
	}
	if code := request(t, http.DefaultClient, at+"/status/history", "localhost", "Bearer token"); code != http.StatusOK {
		t.Errorf("/status/history with the token: %d", code)
	}
}
