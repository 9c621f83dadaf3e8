package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

var (
	errStarting    = errors.New("not streaming yet")
	errUnconfirmed = errors.New("nothing was confirmed for too long")
)

// Serve answers HTTP on the listener until ctx ends.
func (s *Status) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /status", s.status)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}

func (s *Status) healthz(w http.ResponseWriter, _ *http.Request) {
	if s.stuck() {
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

// report is the answer of /status.
type report struct {
	Ready          bool    `json:"ready"`
	Reason         string  `json:"reason,omitempty"`
	UptimeSeconds  float64 `json:"uptime_seconds"`
	Streaming      bool    `json:"streaming"`
	ReceivedLSN    string  `json:"received_lsn,omitempty"`
	ConfirmedLSN   string  `json:"confirmed_lsn,omitempty"`
	InFlightEvents int64   `json:"in_flight_events"`
	InFlightBytes  int64   `json:"in_flight_bytes"`
	OldestUnacked  float64 `json:"oldest_unacked_seconds"`
	// Of the slot, absent until it was asked about.
	RetainedBytes *int64 `json:"slot_retained_bytes,omitempty"`
	SafeBytes     *int64 `json:"slot_safe_bytes,omitempty"` // absent without a limit, too
	WALStatus     string `json:"slot_wal_status,omitempty"`
	SlotLSN       string `json:"slot_confirmed_lsn,omitempty"`

	Backfill *backfillReport `json:"backfill,omitempty"`
}

type backfillReport struct {
	Expected  int64 `json:"expected_rows"`
	Published int64 `json:"published_rows"`
	Done      bool  `json:"done"`
}

func (s *Status) status(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	r := report{UptimeSeconds: time.Since(s.started).Seconds(), Streaming: s.connected}
	if err := s.notReady(); err != nil {
		r.Reason = err.Error()
	} else {
		r.Ready = true
	}
	s.mu.Unlock()
	if g := s.gauges.Load(); g != nil {
		r.ReceivedLSN = g.ReceivedLSN().String()
		r.ConfirmedLSN = g.Confirmed().String()
		r.InFlightEvents = g.InFlightEvents()
		r.InFlightBytes = g.InFlightBytes()
		r.OldestUnacked = g.OldestUnacked().Seconds()
	}
	if slot := s.slot.Load(); slot != nil {
		r.RetainedBytes, r.WALStatus, r.SlotLSN = &slot.Retained, slot.WALStatus, slot.Confirmed
		if slot.Safe >= 0 {
			r.SafeBytes = &slot.Safe
		}
	}
	if b := s.backfill.Load(); b != nil {
		r.Backfill = &backfillReport{b.expected, b.published(), b.done.Load()}
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(r)
}
