package status

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
)

// page is for people: one file that takes nothing from elsewhere, has no data in it, and
// asks for /status and /status/history, with the token if there is one.
//
//go:embed page.html
var page string

// pagePolicy lets a browser run the page's own script and style and nothing else, make
// no HTML of texts, ask nobody but this server, and show the page in no frame.
var pagePolicy = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
	"require-trusted-types-for 'script'; trusted-types 'none'; script-src " + hashOf("script") + "; style-src " + hashOf("style")

// hashOf is the source expression of what stands in the page's element of that name.
func hashOf(element string) string {
	_, rest, _ := strings.Cut(page, "<"+element+">")
	content, _, _ := strings.Cut(rest, "</"+element+">")
	sum := sha256.Sum256([]byte(content))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// servePage answers with the page. Who has no token is answered with it, too, by the
// code 401: it then asks for one.
func servePage(w http.ResponseWriter, code int) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(page)))
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(page))
}

// guarded adds what keeps browsers from taking an answer for something else, from
// remembering it, and from naming this address to others.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}
