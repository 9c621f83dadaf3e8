package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
)

var (
	errStarting    = errors.New("not streaming yet")
	errUnconfirmed = errors.New("nothing was acknowledged or confirmed for too long")

	errKafkaUnknown = errors.New("Kafka has not answered yet")
)

// Serve answers HTTP on the listener until ctx ends.
func (s *Status) Serve(ctx context.Context, l net.Listener) error {
	return s.ServeWith(ctx, l, HTTP{Log: zerolog.Nop()})
}

// ServeWith is Serve with options.
func (s *Status) ServeWith(ctx context.Context, l net.Listener, o HTTP) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.Report()) })
	mux.HandleFunc("GET /status/history", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.history.report()) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { servePage(w, http.StatusOK) })
	if o.SetLevel != nil {
		mux.HandleFunc("GET /log-level", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, o.Level()) })
		mux.HandleFunc("PUT /log-level", o.putLevel)
	}
	keeping, stop := context.WithCancel(ctx)
	var kept sync.WaitGroup
	kept.Go(func() { s.keepHistory(keeping) })
	defer kept.Wait()
	defer stop()
	return o.serve(ctx, l, mux)
}

func (s *Status) healthz(w http.ResponseWriter, _ *http.Request) {
	if s.Stuck() {
		http.Error(w, "the replication stream is not read", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (s *Status) readyz(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	err := s.notReady()
	s.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// answer writes JSON.
func answer(w http.ResponseWriter, what any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(what)
}
