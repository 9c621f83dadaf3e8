package replication

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// keyword says what becomes of a keyword of libpq that the driver does not know. The
// driver takes such a word for a setting of the server.
type keyword struct {
	// honour applies the value; nil ignores it.
	honour func(d *dialling, value string) error
	// refuse is why the keyword is not taken, and what to do. It is "" for one that
	// is ignored: it has no effect here, or outboxd sees to it by itself.
	refuse string
	// unless is the value, besides "", with which a refused keyword does nothing.
	unless string
}

// dialling is what the keywords change.
type dialling struct {
	cfg    *pgconn.Config
	dialer *net.Dialer
}

// keywords are those of libpq in PostgreSQL 13 to 18 ("Parameter Key Words" in its
// manual), and those that it had before, but for the ones that the driver honours by
// itself: see its documentation of ParseConfig.
var keywords = map[string]keyword{
	"hostaddr":                  {honour: hostAddresses},
	"fallback_application_name": {honour: fallbackName},
	"keepalives":                {honour: keepalives},
	"keepalives_idle":           {honour: keepaliveTime(func(c *net.KeepAliveConfig, d time.Duration) { c.Idle = d })},
	"keepalives_interval":       {honour: keepaliveTime(func(c *net.KeepAliveConfig, d time.Duration) { c.Interval = d })},
	"keepalives_count":          {honour: keepaliveCount},
	"ssl_min_protocol_version":  {honour: tlsVersion(func(c *tls.Config, v uint16) { c.MinVersion = max(v, tls.VersionTLS12) })},
	"ssl_max_protocol_version":  {honour: tlsVersion(func(c *tls.Config, v uint16) { c.MaxVersion = v })},

	"client_encoding":    {}, // outboxd sets it where it matters
	"replication":        {}, // outboxd says itself what each connection is for
	"load_balance_hosts": {}, // hosts are tried in their order
	"tcp_user_timeout":   {}, // a stream that says nothing is noticed
	"sslcompression":     {}, // as in libpq
	"gsslib":             {},
	"authtype":           {},
	"tty":                {},

	"gssencmode":          {refuse: "GSSAPI encryption is not supported; use TLS (sslmode)", unless: "disable prefer"},
	"gssdelegation":       {refuse: "GSSAPI credentials are not delegated; remove it", unless: "0"},
	"requirepeer":         {refuse: "the server's user is not checked; remove it, or connect by TLS with sslmode=verify-full"},
	"sslcrl":              {refuse: "revocation lists are not read; remove it"},
	"sslcrldir":           {refuse: "revocation lists are not read; remove it"},
	"sslkeylogfile":       {refuse: "session keys are not written; remove it"},
	"requiressl":          {refuse: "write sslmode=require", unless: "0"},
	"scram_client_key":    {refuse: "log in with password or passfile"},
	"scram_server_key":    {refuse: "log in with password or passfile"},
	"oauth_issuer":        {refuse: "OAuth is not supported; log in with a password or a certificate"},
	"oauth_client_id":     {refuse: "OAuth is not supported; log in with a password or a certificate"},
	"oauth_client_secret": {refuse: "OAuth is not supported; log in with a password or a certificate"},
	"oauth_scope":         {refuse: "OAuth is not supported; log in with a password or a certificate"},
}

// CheckDSN says, without connecting, what is wrong with a connection string: that the
// driver cannot read it, or that it has a word that is neither a keyword of libpq nor
// a setting of PostgreSQL, or one that cannot be honoured. The error shows names and
// no values, which can be secrets.
func CheckDSN(dsn string) error {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return errors.New("is not a PostgreSQL connection string") // the driver's message can show a part of the password
	}
	return applyKeywords(&dialling{cfg, &net.Dialer{}}, dsn)
}

// plainName is a name that is surely not a part of a secret that was not escaped.
var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// applyKeywords honours, ignores or refuses what the driver took for settings. What it
// leaves in RuntimeParams are settings.
func applyKeywords(d *dialling, dsn string) error {
	params := d.cfg.RuntimeParams
	names := make([]string, 0, len(params))
	for name := range params {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		value := params[name]
		lower := strings.ToLower(name)
		word, known := keywords[name]
		switch {
		case known:
			delete(params, name)
			if word.refuse != "" && value != "" && !slices.Contains(strings.Fields(word.unless), value) {
				return fmt.Errorf("has %s: %s", name, word.refuse)
			}
			if word.honour != nil && value != "" {
				if err := word.honour(d, value); err != nil {
					return fmt.Errorf("has %s, %w", name, err)
				}
			}
		case lower == "options" || sessionSettings[lower] || strings.Contains(name, "."):
			// A setting with a dot in its name is an extension's.
		case !plainName.MatchString(name) || misreadURL(dsn): // also of a part of the password
			return errors.New("has a word that is neither a keyword of libpq nor a setting of PostgreSQL; " +
				"percent-encode special characters in the password")
		default:
			return fmt.Errorf("has %s, which is neither a keyword of libpq nor a setting of PostgreSQL that a connection may change; "+
				"correct or remove it (options=-c NAME=VALUE sends a setting that outboxd does not know)", name)
		}
	}
	return nil
}

// misreadURL tells a URL with an @ behind its query's ?, which is then an unescaped
// character of the password, and the names behind it are parts of that.
func misreadURL(dsn string) bool {
	_, query, _ := strings.Cut(dsn, "?")
	return strings.Contains(dsn, "://") && strings.Contains(query, "@")
}

func fallbackName(d *dialling, value string) error {
	if d.cfg.RuntimeParams["application_name"] == "" {
		d.cfg.RuntimeParams["application_name"] = value
	}
	return nil
}

// hostAddresses spares the look-up of the hosts' names.
func hostAddresses(d *dialling, value string) error {
	hosts := []string{d.cfg.Host}
	for _, f := range d.cfg.Fallbacks {
		// A host is there twice when it is tried with and without TLS.
		if f.Host != hosts[len(hosts)-1] {
			hosts = append(hosts, f.Host)
		}
	}
	addresses := strings.Split(value, ",")
	of := make(map[string]string, len(hosts))
	for i, host := range hosts {
		if strings.HasPrefix(host, "/") || len(addresses) != len(hosts) || of[host] != "" {
			return errors.New("which needs one host of its own for each address; or name the addresses as host")
		}
		if addresses[i] != "" && net.ParseIP(addresses[i]) == nil {
			return errors.New("which is no IP address")
		}
		of[host] = addresses[i]
	}
	lookup := d.cfg.LookupFunc
	d.cfg.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		if address := of[host]; address != "" {
			return []string{address}, nil
		}
		return lookup(ctx, host)
	}
	return nil
}

func keepalives(d *dialling, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil {
		return errors.New("which is no number")
	}
	if n == 0 {
		d.dialer.KeepAlive = -1
		d.dialer.KeepAliveConfig.Enable = false
	}
	return nil
}

// keepaliveTime is a number of seconds, where 0 or less is the default.
func keepaliveTime(set func(*net.KeepAliveConfig, time.Duration)) func(*dialling, string) error {
	return func(d *dialling, value string) error {
		n, err := strconv.Atoi(value)
		if err != nil {
			return errors.New("which is no number of seconds")
		}
		if n > 0 {
			set(&d.dialer.KeepAliveConfig, time.Duration(n)*time.Second)
		}
		return nil
	}
}

func keepaliveCount(d *dialling, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil {
		return errors.New("which is no number")
	}
	if n > 0 {
		d.dialer.KeepAliveConfig.Count = n
	}
	return nil
}

// tlsVersions are the names that libpq has for them.
var tlsVersions = map[string]uint16{
	"tlsv1": tls.VersionTLS10, "tlsv1.1": tls.VersionTLS11, "tlsv1.2": tls.VersionTLS12, "tlsv1.3": tls.VersionTLS13,
}

func tlsVersion(set func(*tls.Config, uint16)) func(*dialling, string) error {
	return func(d *dialling, value string) error {
		version, ok := tlsVersions[strings.ToLower(value)]
		if !ok {
			return errors.New("which is no version of TLS (TLSv1.2, TLSv1.3)")
		}
		configs := []*tls.Config{d.cfg.TLSConfig}
		for _, f := range d.cfg.Fallbacks {
			configs = append(configs, f.TLSConfig)
		}
		for _, c := range configs {
			if c == nil {
				continue
			}
			if set(c, version); c.MaxVersion != 0 && c.MaxVersion < max(c.MinVersion, tls.VersionTLS12) {
				return errors.New("which leaves no version of TLS (outboxd speaks 1.2 and 1.3)")
			}
		}
		return nil
	}
}
