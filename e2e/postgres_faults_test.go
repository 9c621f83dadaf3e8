package e2e

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// PostgreSQL crashes and comes back under load: the process stays up, nothing is
// lost, and nothing that was sent is sent again.
func TestPostgresCrashes(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{})
	s := newScenario(t, postgres, nil)
	s.extra = "delivery: {confirm_interval: 200ms}\nerrors: {retry: {min: 50ms, max: 1s}}"
	c := s.startStreaming()
	l := s.startLoad(4, 30, time.Millisecond, 11)
	for round, crash := range []func() error{
		func() error { return postgres.StopImmediate(t.Context()) },
		func() error { return postgres.Kill(t.Context()) },
		func() error {
			// A server that shuts down waits for what it sends to be confirmed.
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			return postgres.StopFast(ctx)
		},
		func() error { return postgres.StopImmediate(t.Context()) },
	} {
		before := l.committed.Load()
		waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+1000 })
		if err := crash(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := postgres.Start(t.Context()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	before := l.committed.Load()
	waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+1000 })
	l.stop()
	s.waitConfirmed(60 * time.Second)
	if !c.running() {
		t.Fatalf("the connector ended:\n%s", c.tail(20))
	}
	c.stop()
	if r := s.verify(); r.repeated != 0 {
		t.Errorf("%d of %d records were published again after a fault of PostgreSQL", r.repeated, r.records)
	}
}

// The replication connection is cut again and again, also inside a large
// transaction: the events that were read of it are not published again.
func TestReplicationConnectionCut(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.cutAgainAndAgain()
}

// The same over TLS, of either version in use. A server whose certificate does not
// verify is not read from.
func TestReplicationOverTLS(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{TLS: true})
	for _, version := range []string{"TLSv1.2", "TLSv1.3"} {
		t.Run(version, func(t *testing.T) {
			s := newScenario(t, postgres, nil)
			s.execIn("postgres", "ALTER SYSTEM SET ssl_max_protocol_version = '"+version+"'")
			s.execIn("postgres", "SELECT pg_reload_conf()")
			s.dsn = strings.Replace(s.dsn, "sslmode=disable", "sslmode=verify-full", 1)
			c := s.start()
			c.waitLog("certificate signed by unknown authority; name the certificate of the authority", 30*time.Second)
			c.stop()
			s.dsn += "&sslrootcert=" + postgres.CertificateFile()
			c = s.startStreaming()
			if v := s.value("SELECT min(coalesce(s.version, 'none')) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE application_name = 'outboxd' AND datname = '" + s.database + "'"); v != version {
				t.Errorf("the least secure connection has %s", v)
			}
			c.stop()
			s.cutAgainAndAgain()
		})
	}
}

// Over a Unix socket the connector is killed, and PostgreSQL too.
func TestReplicationOverUnixSocket(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{})
	s := newScenario(t, postgres, nil)
	s.dsn += "&host=" + url.QueryEscape(postgres.DataDir())
	s.extra = "errors: {retry: {min: 50ms, max: 1s}}"
	c := s.startStreaming()
	if s.value("SELECT count(client_addr) FROM pg_stat_replication") != "0" {
		t.Fatal("the connector streams over TCP")
	}
	l := s.startLoad(3, 20, time.Millisecond, 17)
	for range 3 {
		l.more(300)
		c.kill()
		s.checkpoint()
		c = s.startStreaming()
	}
	if err := postgres.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.more(300)
	l.stop()
	s.waitConfirmed(60 * time.Second)
	c.stop()
	s.verify()
}

// cutAgainAndAgain runs the connector through a proxy that cuts its connections to
// PostgreSQL.
func (s *scenario) cutAgainAndAgain() {
	t := s.t
	t.Helper()
	proxy, err := testbed.NewProxy(s.postgres.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	s.through(proxy)
	s.extra = "errors: {retry: {min: 10ms, max: 200ms}}"
	c := s.startStreaming()
	l := s.startLoad(3, 20, time.Millisecond, 13)
	for range 8 {
		before := l.committed.Load()
		waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+300 })
		proxy.Cut()
	}
	l.stop()
	// Each attempt brings some megabytes more of one transaction of 20 MB.
	for n := range 5 {
		proxy.CutAfter(testbed.ServerToClient, int64(1+3*n)<<20)
		if n == 0 {
			s.exec(`INSERT INTO outbox (aggregateid, type, payload)
				SELECT 'big-' || i % 10, 't0', jsonb_build_object('n', i, 'text', repeat(md5(i::text), 6)) FROM generate_series(1, 60000) i`)
		}
		waitFor(t, 60*time.Second, func() (string, bool) {
			return "not cut", proxy.Connections() == 0 || s.confirmed() >= s.lsn("SELECT pg_current_wal_lsn()::text")
		})
	}
	s.waitConfirmed(120 * time.Second)
	c.stop()
	if r := s.verify(); r.repeated != 0 {
		t.Errorf("%d of %d records were published again after a cut connection", r.repeated, r.records)
	}
}

// A connection that hangs without an end is given up by the watchdog, and our
// own server process, which still holds the slot, is ended.
func TestReplicationConnectionHangs(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	proxy, err := testbed.NewProxy(s.postgres.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	s.through(proxy)
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('a', 't0', '{"n": 1}')`)
	s.waitConfirmed(30 * time.Second)
	proxy.Stall(testbed.Both, true)
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('a', 't0', '{"n": 2}')`)
	c.waitLog("replication stream is silent", 60*time.Second)
	proxy.Stall(testbed.Both, false)
	s.waitConfirmed(60 * time.Second)
	c.stop()
	if r := s.verify(); r.repeated != 0 {
		t.Errorf("%d of %d records were published again after a hanging connection", r.repeated, r.records)
	}
}
