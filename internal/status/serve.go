package status

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"
)

// HTTP says how the status is served. See http.* in the configuration.
type HTTP struct {
	// Token, if set, returns the bearer token that all but /healthz and /readyz ask
	// for; "" asks for none. It is called for each request.
	Token func() (string, error)
	// TLS serves HTTPS; nil: plain HTTP.
	TLS *tls.Config
	// Level and SetLevel are the level of the log, which PUT /log-level changes; nil: it
	// cannot be changed.
	Level    func() string
	SetLevel func(level string) error
	Log      zerolog.Logger
}

// The limits of a connection. A client that sends or reads nothing must not hold
// one: each is a file descriptor that PostgreSQL and Kafka may need.
const (
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	writeTimeout   = 10 * time.Second
	idleTimeout    = 30 * time.Second
	maxHeader      = 16 << 10
	maxConnections = 64
)

// serve answers on the listener until ctx ends.
func (o HTTP) serve(ctx context.Context, l net.Listener, handler http.Handler) error {
	handler = guarded(o.authorized(handler))
	if isLoopback(l.Addr()) {
		handler = o.ownHost(handler)
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(&errorLog{log: o.Log}, "", 0),
	}
	l = netutil.LimitListener(persistent{l}, maxConnections)
	if o.TLS != nil {
		l = tls.NewListener(l, o.TLS)
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}

// authorized asks for the token, but on the paths of probes.
func (o HTTP) authorized(next http.Handler) http.Handler {
	if o.Token == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" && r.URL.Path != "/readyz" {
			want, err := o.Token()
			if err != nil {
				http.Error(w, "the token (http.token) cannot be read", http.StatusServiceUnavailable)
				return
			}
			if want != "" && !hasToken(r, want) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="outboxd"`)
				if r.URL.Path == "/" && r.Method == http.MethodGet {
					servePage(w, http.StatusUnauthorized)
					return
				}
				http.Error(w, "this needs the bearer token of http.token", http.StatusUnauthorized)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// putLevel changes the level of the log. Unlike what is only read, it always takes a
// token: without one, any page that a browser here shows could ask for it.
func (o HTTP) putLevel(w http.ResponseWriter, r *http.Request) {
	if token, err := o.token(); err != nil || token == "" {
		http.Error(w, "set http.token to change the level of the log over HTTP, or send SIGHUP after a change of log.level", http.StatusForbidden)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 100))
	if err == nil {
		err = o.SetLevel(strings.TrimSpace(string(body)))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	o.Log.Log().Str("log_level", o.Level()).Msg("the level of the log was changed over HTTP, until the next restart or SIGHUP")
	fmt.Fprintln(w, o.Level())
}

// token returns "" where none is asked for.
func (o HTTP) token() (string, error) {
	if o.Token == nil {
		return "", nil
	}
	return o.Token()
}

// hasToken compares in a time that tells nothing of the token, its length included.
func hasToken(r *http.Request, want string) bool {
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	a, b := sha256.Sum256([]byte(strings.TrimSpace(given))), sha256.Sum256([]byte(want))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// ownHost answers only requests that name this host. A browser here that was lured
// to a name which leads to 127.0.0.1 (DNS rebinding) names another, and cannot read
// what outboxd tells. Where a token is asked for, it is what decides.
func (o HTTP) ownHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token, err := o.token(); err == nil && token != "" {
			next.ServeHTTP(w, r)
			return
		}
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
		ip := net.ParseIP(host)
		if host != "" && !strings.EqualFold(host, "localhost") && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "outboxd listens on this host alone and answers to localhost and 127.0.0.1; set http.listen or http.token for others", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// persistent is a listener whose errors pass: without memory or file descriptors the
// page waits, and comes back. net/http tries again after what is called temporary.
type persistent struct{ net.Listener }

func (l persistent) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		err = temporary{err}
	}
	return conn, err
}

type temporary struct{ error }

func (temporary) Timeout() bool   { return false }
func (temporary) Temporary() bool { return true }
func (t temporary) Unwrap() error { return t.error }

// quietFor is how long the server's errors are counted after one was logged: clients
// cause them, as often as they like.
const quietFor = time.Minute

// errorLog takes net/http's lines into the log.
type errorLog struct {
	log zerolog.Logger

	mu     sync.Mutex
	until  time.Time
	hidden int
}

// Write logs a line, or counts it. It does not fail.
func (e *errorLog) Write(line []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if now.Before(e.until) {
		e.hidden++
		return len(line), nil
	}
	text := bytes.TrimSpace(line)
	event := e.log.Warn().Str("error", string(text[:min(len(text), 300)]))
	if e.hidden > 0 {
		event = event.Int("not_logged", e.hidden)
	}
	event.Msg("HTTP server")
	e.until, e.hidden = now.Add(quietFor), 0
	return len(line), nil
}
