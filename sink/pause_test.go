package sink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"outboxd/internal/rawconn"
)

// The clock is set back on the sink instead of stopping the process.
func TestNothingIsSentAfterAPause(t *testing.T) {
	c := broker(t, 1)
	s := &sender{t: t, k: open(t, c, func(o *Options) { o.PauseLimit = time.Hour })}
	s.send(testTopic, "k", "0")
	s.delivered()
	s.k.pauses.beat.Store(int64(rawconn.SinceBoot() - time.Hour + time.Minute))
	s.send(testTopic, "k", "1")
	s.delivered()

	s.k.pauses.beat.Store(int64(rawconn.SinceBoot() - 2*time.Hour))
	s.send(testTopic, "k", "2")
	select {
	case <-s.k.Failed():
	case <-time.After(patience):
		t.Fatal("the sink did not fail")
	}
	err := s.k.Err()
	s.k.Close() // the client would try again for ever, in vain
	s.settled()
	var failure *FailedError
	if !errors.As(err, &failure) || !errors.Is(err, ErrPaused) || errors.Is(err, ErrUndeliverable) {
		t.Errorf("the sink fails with %v", err)
	}
	says(t, err, "2h0m0s", "another may have taken over")
	if n := appended(t, c, testTopic); n != 2 {
		t.Errorf("%d records arrived, want 2", n)
	}
}

// While the process runs it is not taken for one that was stopped.
func TestProcessThatRunsIsNotPaused(t *testing.T) {
	t.Parallel()
	c := broker(t, 1)
	const limit = 20 * time.Second
	s := &sender{t: t, k: open(t, c, func(o *Options) { o.PauseLimit = limit })}
	before := s.k.pauses.beat.Load()
	for deadline := time.Now().Add(patience); s.k.pauses.beat.Load() == before; {
		if time.Now().After(deadline) {
			t.Fatal("nothing notes that the process runs")
		}
		time.Sleep(limit / 20)
	}
	s.send(testTopic, "k", "0")
	s.delivered()
}

func TestTLS(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	c := broker(t, 1, kfake.TLS(&tls.Config{Certificates: server.TLS.Certificates}))
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	s := &sender{t: t, k: open(t, c, func(o *Options) { o.TLS = &tls.Config{RootCAs: roots} })}
	s.send(testTopic, "k", "0")
	s.delivered()
}

// What is wrong between us and the brokers is said with the key to change.
func TestRemedies(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	serving := &tls.Config{Certificates: server.TLS.Certificates}
	mutual := &tls.Config{Certificates: server.TLS.Certificates, ClientAuth: tls.RequireAnyClientCert}
	for key, test := range map[string]struct {
		brokers, ours *tls.Config
	}{
		"kafka.tls.ca":          {serving, &tls.Config{}},
		"kafka.tls.server_name": {serving, &tls.Config{RootCAs: roots, ServerName: "elsewhere"}},
		"kafka.tls.cert":        {mutual, &tls.Config{RootCAs: roots}},
	} {
		t.Run(key, func(t *testing.T) {
			k := open(t, broker(t, 1, kfake.TLS(test.brokers)), func(o *Options) { o.TLS = test.ours })
			var err error
			until(t, "it says "+key, func() bool { // which the client tries for as long as it may
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err = k.Diagnose(ctx)
				return strings.Contains(fmt.Sprint(err), key)
			})
			says(t, err, "ask the brokers", key)
		})
	}
}
