package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// checkDSN parses a connection string as the driver will, PG* variables
// included.
func checkDSN(dsn string) string {
	_, err := pgconn.ParseConfig(dsn)
	if err == nil {
		return ""
	}
	// The driver hides passwords in its message as well as it can, which is not
	// always. So nothing of the message is shown, only what it means.
	message := ""
	var parseError *pgconn.ParseConfigError
	if errors.As(err, &parseError) {
		parseError.ConnString = ""
		message = strings.TrimPrefix(parseError.Error(), "cannot parse ``: ")
	}
	for _, known := range dsnComplaints {
		if strings.HasPrefix(message, known.message) {
			return known.complaint + fileFault(err)
		}
	}
	return "is not a PostgreSQL connection string"
}

// fileFault is why a file cannot be read, for the end of a complaint, "" if that is not
// the fault. It does not name the file, which may be a part of a misread password.
func fileFault(err error) string {
	for _, fault := range []error{fs.ErrNotExist, fs.ErrPermission} {
		if errors.Is(err, fault) {
			return ": " + fault.Error()
		}
	}
	return ""
}

// CurrentDSN returns DSN with the files in it read again. It is checked as it was
// when the configuration was loaded, since the driver's own message might show a
// password.
func (p Postgres) CurrentDSN() (string, error) {
	dsn, err := p.DSN.Current()
	if err == nil {
		if complaint := checkDSN(dsn); complaint != "" {
			err = errors.New("the value " + complaint)
		}
	}
	if err != nil {
		return "", fmt.Errorf("postgres.dsn: %w", err)
	}
	return dsn, nil
}

// dsnComplaints are the driver's messages by their beginnings.
var dsnComplaints = []struct{ message, complaint string }{
	{"failed to parse as URL", "is not a valid URL; percent-encode special characters in the password"},
	{"failed to parse as keyword/value", "is neither a postgres:// URL nor key=value pairs"},
	{"failed to read service", "names a service that cannot be read"},
	{"failed to configure TLS (sslmode is invalid", "has an invalid sslmode"},
	{"failed to configure TLS (both ", "has one of sslcert and sslkey, and needs both"},
	{"failed to configure TLS (unable to read CA file", "names an sslrootcert that cannot be read"},
	{"failed to configure TLS (unable to add CA", "names an sslrootcert that is no certificate in PEM"},
	{"failed to configure TLS (unable to read cert", "names an sslcert that cannot be read"},
	{"failed to configure TLS (unable to read sslkey", "names an sslkey that cannot be read"},
	{"failed to configure TLS (failed to decode sslkey", "names an sslkey that is no key in PEM"},
	{"failed to configure TLS (unable to find sslpassword", "names an sslkey that is encrypted, and has no sslpassword"},
	{"failed to configure TLS (unable to decrypt key", "has an sslpassword that does not decrypt sslkey"},
	{"failed to configure TLS (unable to load cert", "names an sslcert and an sslkey that are no certificate and its key in PEM"},
	{"failed to configure TLS", "has TLS options that cannot be used; check sslmode and that the files exist and can be read"},
	{"could not match", "has neither one port nor one for each host"},
	{"invalid port", "has an invalid port; percent-encode special characters in the password"},
	{"invalid connect_timeout", "has an invalid connect_timeout"},
	{"invalid sslcertmode", "has an invalid sslcertmode"},
	{"invalid require_auth", "has an invalid require_auth"},
	{"unknown target_session_attrs", "has an unknown target_session_attrs"},
	{"unknown channel_binding", "has an unknown channel_binding"},
	{"invalid min_protocol_version", "has an invalid min_protocol_version"},
	{"invalid max_protocol_version", "has an invalid max_protocol_version"},
	{"min_protocol_version cannot", "has a min_protocol_version greater than max_protocol_version"},
}

// RedactDSN returns what may be logged of a connection string, as a URL: user,
// hosts with ports, and database, with what PG* variables add. It returns
// "[hidden]" when the string cannot be parsed, or so oddly that a part of the
// password may pass for something else.
func RedactDSN(dsn string) string {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil || misread(dsn) {
		return hidden
	}
	hosts := []string{address(config.Host, config.Port)}
	for _, fallback := range config.Fallbacks {
		// The same host is there again when it is tried with and without TLS.
		if host := address(fallback.Host, fallback.Port); !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	redacted := url.URL{Scheme: "postgres", Host: strings.Join(hosts, ","), Path: config.Database}
	return redacted.Scheme + "://" + url.User(config.User).String() + "@" + redacted.Host + "/" + url.PathEscape(redacted.Path)
}

// misread tells a URL that is not split where its author meant: one with an
// unescaped /, ? or # in the password, so that an @ is left over behind it.
func misread(dsn string) bool {
	if !isURL(dsn) {
		return false // key=value pairs
	}
	_, afterScheme, _ := strings.Cut(dsn, "://")
	authority := strings.IndexAny(afterScheme, "/?#")
	return authority >= 0 && strings.Contains(afterScheme[authority:], "@")
}

// isURL tells a URL from key=value pairs as the driver does.
func isURL(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

// address returns host:port, where a host can also be a socket's directory.
func address(host string, port uint16) string {
	if strings.HasPrefix(host, "/") {
		host = url.PathEscape(host)
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
