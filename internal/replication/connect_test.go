package replication

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"outboxd/internal/testbed"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/rs/zerolog"
)

// stub listens as a PostgreSQL server does, and hands over each connection that has
// sent its start-up message.
func stub(t *testing.T, secure *tls.Config, serve func(net.Conn, *pgproto3.Backend, map[string]string)) string {
	t.Helper()
	server, err := testbed.NewStub(func(conn net.Conn) {
		backend := pgproto3.NewBackend(conn, conn)
		for {
			m, err := backend.ReceiveStartupMessage()
			if err != nil {
				return
			}
			switch m := m.(type) {
			case *pgproto3.SSLRequest:
				if secure == nil {
					conn.Write([]byte{'N'})
					continue
				}
				conn.Write([]byte{'S'})
				conn = tls.Server(conn, secure)
				backend = pgproto3.NewBackend(conn, conn)
			case *pgproto3.StartupMessage:
				serve(conn, backend, m.Parameters)
				return
			default:
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server.Addr()
}

// silent says nothing until the client has gone.
func silent(conn net.Conn, _ *pgproto3.Backend, _ map[string]string) {
	_, _ = conn.Read(make([]byte, 1))
}

// refuse ends the start with an error of the server.
func refuse(e pgproto3.ErrorResponse) func(net.Conn, *pgproto3.Backend, map[string]string) {
	return func(_ net.Conn, b *pgproto3.Backend, _ map[string]string) {
		e.Severity, e.SeverityUnlocalized = "FATAL", "FATAL"
		b.Send(&e)
		_ = b.Flush()
	}
}

// welcome lets a client in.
func welcome(b *pgproto3.Backend) {
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: "13.1"})
	b.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{0, 0, 0, 1}})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	_ = b.Flush()
}

// lower sets a limit for a test.
func lower(t *testing.T, limit *time.Duration, to time.Duration) {
	was := *limit
	*limit = to
	t.Cleanup(func() { *limit = was })
}

func dsnOf(addresses ...string) string {
	return "postgres://u@" + strings.Join(addresses, ",") + "/d?sslmode=disable"
}

func TestConnectTimeoutHasADefault(t *testing.T) {
	for dsn, want := range map[string]time.Duration{
		"postgres://h/d":                   dialTimeout,
		"postgres://h/d?connect_timeout=3": 3 * time.Second,
	} {
		cfg, err := parseDSN(dsn)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.ConnectTimeout != want {
			t.Errorf("%s: %s for a host, want %s", dsn, cfg.ConnectTimeout, want)
		}
	}
}

// A host that accepts and says nothing is passed over, and named.
func TestSilentHost(t *testing.T) {
	lower(t, &dialTimeout, 300*time.Millisecond)
	first := stub(t, nil, silent)
	second := stub(t, nil, refuse(pgproto3.ErrorResponse{Code: "57P03", Message: "the second host", Routine: "ProcessStartupPacket"}))
	var log bytes.Buffer
	_, err := Connect(t.Context(), Options{DSN: dsnOf(first, second), Log: zerolog.New(&log)})
	if err == nil || !strings.Contains(err.Error(), "the second host") || !strings.Contains(err.Error(), first) {
		t.Errorf("the second host was not tried, or the first not named: %v", err)
	}
	if !strings.Contains(log.String(), first) || !strings.Contains(log.String(), "does not answer") {
		t.Errorf("the log does not name the silent host:\n%s", &log)
	}
	_, err = Connect(t.Context(), Options{DSN: dsnOf(first), Log: zerolog.Nop()})
	if err == nil || !strings.Contains(err.Error(), first) || !strings.Contains(err.Error(), "load balancer") || errors.Is(err, ErrSetup) {
		t.Errorf("a silent host alone: %v", err)
	}
}

// Whatever is asked before the stream is given up in time.
func TestSilentAfterLogin(t *testing.T) {
	lower(t, &askTimeout, 300*time.Millisecond)
	address := stub(t, nil, func(conn net.Conn, b *pgproto3.Backend, _ map[string]string) {
		welcome(b)
		_, _ = io.Copy(io.Discard, conn) // the question, and no answer
	})
	o := Options{DSN: dsnOf(address), Log: zerolog.Nop()}
	for name, try := range map[string]func() error{
		"connect": func() error { _, err := Connect(t.Context(), o); return err },
		"health":  func() error { b := NewObserver(o); defer b.Close(); _, err := b.Health(t.Context()); return err },
	} {
		err := try()
		if !errors.Is(err, errNoAnswer) || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: %v", name, err)
		}
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Connect(stopped, o); !errors.Is(err, context.Canceled) || errors.Is(err, errNoAnswer) {
		t.Errorf("a stop is taken for a silent server: %v", err)
	}
}

// A server that never ends what it says is not listened to without end.
func TestEndlessAnswers(t *testing.T) {
	var sent atomic.Int64
	flood := func(b *pgproto3.Backend, message pgproto3.BackendMessage) {
		for i := 0; ; i++ {
			if p, ok := message.(*pgproto3.ParameterStatus); ok {
				p.Name = fmt.Sprintf("n%d", i)
			}
			b.Send(message)
			if i%100 == 0 {
				if b.Flush() != nil {
					return
				}
				sent.Add(100 * 1000)
			}
		}
	}
	long := strings.Repeat("x", 1000)
	for name, c := range map[string]struct {
		serve func(net.Conn, *pgproto3.Backend, map[string]string)
		most  int64
	}{
		"parameters before the login is done": {func(_ net.Conn, b *pgproto3.Backend, _ map[string]string) {
			b.Send(&pgproto3.AuthenticationOk{})
			flood(b, &pgproto3.ParameterStatus{Value: long})
		}, connectLimit},
		"rows": {func(_ net.Conn, b *pgproto3.Backend, _ map[string]string) {
			welcome(b)
			if _, err := b.Receive(); err != nil {
				return
			}
			b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("a")}}})
			flood(b, &pgproto3.DataRow{Values: [][]byte{[]byte(long)}})
		}, answerLimit},
		"parameters in an answer": {func(_ net.Conn, b *pgproto3.Backend, _ map[string]string) {
			welcome(b)
			if _, err := b.Receive(); err != nil {
				return
			}
			flood(b, &pgproto3.ParameterStatus{Value: long})
		}, answerLimit},
	} {
		sent.Store(0)
		address := stub(t, nil, c.serve)
		_, err := Connect(t.Context(), Options{DSN: dsnOf(address), Log: zerolog.Nop()})
		if !errors.Is(err, errTooMuch) {
			t.Errorf("%s: %v", name, err)
		}
		// What the sockets hold was sent and not read.
		if n := sent.Load(); n > c.most+32<<20 {
			t.Errorf("%s: %d bytes were taken", name, n)
		}
	}
}

// What a server or a pooler says to a first connection, and what is advised.
func TestConnectHints(t *testing.T) {
	for name, c := range map[string]struct {
		answer pgproto3.ErrorResponse
		setup  bool
		says   []string
		not    string
	}{
		"pgbouncer": {pgproto3.ErrorResponse{Code: "08P01", Message: "unsupported startup parameter: extra_float_digits"},
			true, []string{"pooler", "name the PostgreSQL server itself"}, ""},
		"pgbouncer, for now": {pgproto3.ErrorResponse{Code: "08P01", Message: "no more connections allowed (max_client_conn)"},
			false, []string{"pooler", "name the PostgreSQL server itself"}, ""},
		"unknown setting": {pgproto3.ErrorResponse{Code: "42704", Message: `unrecognized configuration parameter "statment_timeout"`, File: "guc.c", Routine: "find_option"},
			true, []string{"statment_timeout", "postgres.dsn"}, "LOGIN"},
		"bad value": {pgproto3.ErrorResponse{Code: "22023", Message: `invalid value for parameter "wal_sender_timeout": "x"`, File: "guc.c", Routine: "parse_and_validate_value"},
			true, []string{"wal_sender_timeout", "postgres.dsn"}, "LOGIN"},
		"setting of superusers": {pgproto3.ErrorResponse{Code: "42501", Message: `permission denied to set parameter "log_statement"`, File: "guc.c", Routine: "set_config_with_handle"},
			true, []string{"log_statement", "postgres.dsn"}, "REPLICATION"},
		"no CONNECT": {pgproto3.ErrorResponse{Code: "42501", Message: `permission denied for database "d"`, File: "postinit.c", Routine: "CheckMyDatabase"},
			false, []string{`GRANT CONNECT ON DATABASE "d" TO "u"`}, "LOGIN"},
		"no REPLICATION": {pgproto3.ErrorResponse{Code: "42501", Message: "permission denied to start WAL sender", File: "postinit.c", Routine: "InitPostgres"},
			false, []string{"ALTER ROLE … REPLICATION", "rds_replication"}, "LOGIN"},
		"pg_hba.conf": {pgproto3.ErrorResponse{Code: "28000", Message: "no pg_hba.conf entry for replication connection", File: "auth.c", Routine: "ClientAuthentication"},
			false, []string{"pg_hba.conf"}, "LOGIN"},
		"no certificate": {pgproto3.ErrorResponse{Code: "28000", Message: "connection requires a valid client certificate", File: "auth.c", Routine: "ClientAuthentication"},
			false, []string{"sslcert and sslkey in postgres.dsn"}, "pg_hba.conf"},
		"a certificate of another role": {pgproto3.ErrorResponse{Code: "28000", Message: `certificate authentication failed for user "u"`, File: "auth.c", Routine: "auth_failed"},
			false, []string{"common name", "sslcert", "pg_ident.conf"}, "LOGIN"},
		"no LOGIN": {pgproto3.ErrorResponse{Code: "28000", Message: `role "u" is not permitted to log in`, File: "miscinit.c", Routine: "InitializeSessionUserId"},
			false, []string{"LOGIN"}, ""},
		// A password that is being rotated is right again soon.
		"password": {pgproto3.ErrorResponse{Code: "28P01", Message: "password authentication failed", File: "auth.c", Routine: "auth_failed"},
			false, []string{"password in postgres.dsn"}, ""},
	} {
		address := stub(t, nil, refuse(c.answer))
		_, err := Connect(t.Context(), Options{DSN: dsnOf(address), Log: zerolog.Nop()})
		if err == nil || errors.Is(err, ErrSetup) != c.setup {
			t.Errorf("%s: permanent is %t, want %t: %v", name, errors.Is(err, ErrSetup), c.setup, err)
			continue
		}
		for _, part := range c.says {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q is missing in: %v", name, part, err)
			}
		}
		if c.not != "" && strings.Contains(err.Error(), c.not) {
			t.Errorf("%s: %q has nothing to do with it: %v", name, c.not, err)
		}
	}
}

// Neither what the role nor what the DSN says of time-outs reaches a connection, and
// keywords are never sent as settings.
func TestStartUpParameters(t *testing.T) {
	sent := make(chan map[string]string, 1)
	address := stub(t, nil, func(_ net.Conn, b *pgproto3.Backend, p map[string]string) {
		sent <- p
		refuse(pgproto3.ErrorResponse{Code: "57P03"})(nil, b, nil)
	})
	dsn := dsnOf(address) + "&statement_timeout=5s&Lock_Timeout=1s&transaction_timeout=1s&keepalives=1&keepalives_idle=30&gssencmode=disable" +
		"&client_encoding=LATIN1&load_balance_hosts=random&replication=database&fallback_application_name=shop&wal_sender_timeout=10s&my.setting=1&tcp_user_timeout=1000&sslcompression=0"
	if _, err := Connect(t.Context(), Options{DSN: dsn, Log: zerolog.Nop()}); err == nil {
		t.Fatal("the stub let it in")
	}
	want := map[string]string{"user": "u", "database": "d", "application_name": "shop", "wal_sender_timeout": "10s", "my.setting": "1"}
	maps.Copy(want, ourSettings)
	if got := <-sent; !maps.Equal(got, want) {
		t.Errorf("sent %v\nwant %v", got, want)
	}
}

// authority makes certificates for the address of a stub.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, file: filepath.Join(t.TempDir(), "ca.pem")}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) issue(ip string, from, to time.Duration) *tls.Config {
	a.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.ParseIP(ip)},
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: a.key}}}
}

func TestTLSHints(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	good := ours.issue("127.0.0.1", -time.Hour, time.Hour)
	for name, c := range map[string]struct {
		server *tls.Config
		dsn    string
		says   string // the one remedy that fits, "" when the connection is made
	}{
		"all is well":                 {good, "sslmode=verify-full&sslrootcert=" + ours.file, ""},
		"expired":                     {ours.issue("127.0.0.1", -2*time.Hour, -time.Hour), "sslmode=verify-full&sslrootcert=" + ours.file, "has expired: renew it"},
		"expired, verify-ca":          {ours.issue("127.0.0.1", -2*time.Hour, -time.Hour), "sslmode=verify-ca&sslrootcert=" + ours.file, "has expired: renew it"},
		"not yet valid":               {ours.issue("127.0.0.1", time.Hour, 2*time.Hour), "sslmode=verify-full&sslrootcert=" + ours.file, "not valid yet: correct the clock"},
		"another host":                {ours.issue("127.0.0.2", -time.Hour, time.Hour), "sslmode=verify-full&sslrootcert=" + ours.file, "name the host in postgres.dsn as the certificate does"},
		"another host, verify-ca":     {ours.issue("127.0.0.2", -time.Hour, time.Hour), "sslmode=verify-ca&sslrootcert=" + ours.file, ""},
		"another authority":           {good, "sslmode=verify-full&sslrootcert=" + other.file, "by sslrootcert"},
		"another authority verify-ca": {good, "sslmode=verify-ca&sslrootcert=" + other.file, "by sslrootcert"},
		"another authority, require":  {good, "sslmode=require&sslrootcert=" + other.file, "by sslrootcert"},
		"no TLS":                      {nil, "sslmode=require", "set ssl = on"},
	} {
		address := stub(t, c.server, refuse(pgproto3.ErrorResponse{Code: "57P03", Message: "made"}))
		_, err := Connect(t.Context(), Options{DSN: "postgres://u@" + address + "/d?" + c.dsn, Log: zerolog.Nop()})
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if made := strings.Contains(err.Error(), "made"); made != (c.says == "") {
			t.Errorf("%s: the connection is made: %t: %v", name, made, err)
		}
		for _, remedy := range []string{"has expired: renew it", "not valid yet: correct the clock", "name the host in postgres.dsn as the certificate does", "by sslrootcert", "set ssl = on"} {
			if strings.Contains(err.Error(), remedy) != (remedy == c.says) {
				t.Errorf("%s: want %q alone: %v", name, c.says, err)
			}
		}
	}
}

// away is a connection from elsewhere.
type away struct {
	net.Conn
	addr net.Addr
}

func (a away) RemoteAddr() net.Addr { return a.addr }

func TestPlaintextIsWarnedOf(t *testing.T) {
	tcp := func(ip string) net.Conn { return away{addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 5432}} }
	for name, c := range map[string]struct {
		conn net.Conn
		warn bool
	}{
		"another machine":       {tcp("192.0.2.1"), true},
		"another machine, IPv6": {tcp("2001:db8::1"), true},
		"loopback":              {tcp("127.0.0.1"), false},
		"loopback, IPv6":        {tcp("::1"), false},
		"Unix socket":           {away{addr: &net.UnixAddr{Name: "/tmp/s"}}, false},
		"TLS":                   {tls.Client(tcp("192.0.2.1"), &tls.Config{}), false},
	} {
		warning := plaintext(c.conn)
		if (warning != "") != c.warn || c.warn && !strings.Contains(warning, "sslmode=verify-full") {
			t.Errorf("%s: %q", name, warning)
		}
	}
	var s Shared
	if !s.once("a") || s.once("a") || !s.once("b") {
		t.Error("a warning is not said once")
	}
}

// A pooler that passes over the parameter replication lets a client in, and does not
// know what it then says.
func TestPoolerWithoutReplication(t *testing.T) {
	address := stub(t, nil, func(_ net.Conn, b *pgproto3.Backend, _ map[string]string) {
		welcome(b)
		for {
			if _, err := b.Receive(); err != nil {
				return
			}
			b.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: syntaxError, Message: `syntax error at or near "IDENTIFY_SYSTEM"`, File: "scan.l", Routine: "scanner_yyerror"})
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			_ = b.Flush()
		}
	})
	_, err := Connect(t.Context(), Options{DSN: dsnOf(address), Log: zerolog.Nop()})
	if !errors.Is(err, ErrSetup) || !strings.Contains(err.Error(), "pooler") {
		t.Error(err)
	}
}

// What CheckDSN refuses is not tried again and again.
func TestConnectRefusesAWord(t *testing.T) {
	if _, err := Connect(t.Context(), Options{DSN: "postgres://127.0.0.1:1/d?nonsense=1", Log: zerolog.Nop()}); !errors.Is(err, ErrSetup) || !strings.Contains(err.Error(), "nonsense") {
		t.Error(err)
	}
}
