package replication

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"
)

func TestCheckDSN(t *testing.T) {
	const url = "postgres://u:hunter2@h1,h2/d?"
	for dsn, says := range map[string]string{
		url + "sslmode=disable&target_session_attrs=primary":                                                                       "",
		url + "keepalives=1&keepalives_idle=10&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=5000":                     "",
		url + "gssencmode=disable&krbsrvname=x&gsslib=gssapi&sslcompression=0&sslsni=1&load_balance_hosts=random&replication=true": "",
		url + "channel_binding=prefer&require_auth=scram-sha-256&sslcertmode=disable&passfile=/nowhere&connect_timeout=3":          "",
		url + "ssl_min_protocol_version=TLSv1.2&ssl_max_protocol_version=TLSv1.3&sslcrl=&requirepeer=":                             "",
		url + "hostaddr=192.0.2.1,192.0.2.2&fallback_application_name=x&min_protocol_version=3.0":                                  "",
		url + "wal_sender_timeout=10s&search_path=a,b&DateStyle=ISO&TimeZone=UTC&jit=off&pg_stat_statements.track=none":            "",
		url + "options=-c%20new_setting%3D1":           "",
		"host=h dbname=d keepalives=0 authtype=x tty=": "",
		"": "",

		url + "nonsense=1":                       "nonsense",
		url + "statment_timeout=1":               "statment_timeout",
		url + "pool_max_conns=4":                 "pool_max_conns",
		url + "shared_buffers=1GB":               "shared_buffers",
		"host=h nonsense=1":                      "nonsense",
		url + "gssencmode=require":               "gssencmode",
		url + "sslcrl=/etc/crl.pem":              "sslcrl",
		url + "requirepeer=postgres":             "requirepeer",
		url + "oauth_issuer=https://x":           "oauth_issuer",
		url + "requiressl=1":                     "sslmode=require",
		url + "keepalives=yes":                   "keepalives",
		url + "ssl_min_protocol_version=SSLv3":   "ssl_min_protocol_version",
		url + "ssl_max_protocol_version=TLSv1.1": "ssl_max_protocol_version",
		url + "hostaddr=192.0.2.1":               "hostaddr",
		url + "hostaddr=192.0.2.1,name":          "hostaddr",
		url + "sslmode=maybe":                    "not a PostgreSQL connection string",
		"postgres://u@h/d?ter2=a@b":              "percent-encode",
	} {
		err := CheckDSN(dsn)
		if says == "" {
			if err != nil {
				t.Errorf("%s: %v", dsn, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v; it does not say %s", dsn, err, says)
		} else if strings.Contains(err.Error(), "ter2") {
			t.Errorf("%s: the error shows a part of the password: %v", dsn, err)
		}
	}
}

func TestKeywordsAreHonoured(t *testing.T) {
	cfg, err := parseDSN("postgres://u@h1,h2/d?hostaddr=192.0.2.1,192.0.2.2&ssl_min_protocol_version=TLSv1.3&sslmode=prefer")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := cfg.LookupFunc(t.Context(), "h2"); err != nil || len(got) != 1 || got[0] != "192.0.2.2" {
		t.Errorf("h2 is at %v, %v", got, err)
	}
	secure := 0
	for _, f := range cfg.Fallbacks {
		if f.TLSConfig != nil {
			secure++
			if f.TLSConfig.MinVersion != tls.VersionTLS13 {
				t.Errorf("TLS from version %x on", f.TLSConfig.MinVersion)
			}
		}
	}
	if secure == 0 || cfg.TLSConfig.MinVersion != tls.VersionTLS13 {
		t.Errorf("TLS with %d fallbacks, from version %x on", secure, cfg.TLSConfig.MinVersion)
	}
	if cfg, err = parseDSN("host=h ssl_min_protocol_version=TLSv1"); err != nil || cfg.TLSConfig.MinVersion != tls.VersionTLS12 {
		t.Errorf("TLS 1.0 is allowed: %v", err)
	}
	d := dialling{cfg, &net.Dialer{}}
	for _, c := range []struct{ name, value string }{{"keepalives_idle", "30"}, {"keepalives_interval", "4"}, {"keepalives_count", "2"}} {
		if err := keywords[c.name].honour(&d, c.value); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := d.dialer.KeepAliveConfig, (net.KeepAliveConfig{Idle: 30 * time.Second, Interval: 4 * time.Second, Count: 2}); got != want {
		t.Errorf("keepalives %v, want %v", got, want)
	}
}

func TestSynchronousStandby(t *testing.T) {
	for names, want := range map[string]bool{
		"":                              false,
		"*":                             true,
		"outboxd":                       true,
		"OutboxD":                       true,
		`"outboxd"`:                     true,
		"standby1, outboxd":             true,
		"standby1,standby2":             false,
		"outboxd2":                      false,
		"FIRST 1 (standby1, *)":         true,
		"first 2 (standby1, standby2)":  false,
		"ANY 1 (standby1, outboxd)":     true,
		"2 (standby1, outboxd)":         true,
		`ANY 1 ("a,outboxd", standby2)`: false,
		`"out""boxd"`:                   false,
	} {
		if got := SynchronousStandby(names, "outboxd"); got != want {
			t.Errorf("%s: %t, want %t", names, got, want)
		}
	}
}
