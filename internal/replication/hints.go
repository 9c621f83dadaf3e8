package replication

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// managedReplication is how a role gets the right to replicate where nobody is a
// superuser.
const managedReplication = "a superuser runs ALTER ROLE … REPLICATION; on a managed server its administrator does, or what the provider has for it " +
	"(Amazon RDS and Aurora: GRANT rds_replication TO the role)"

// connectHint adds what to do to the refusals that every first set-up meets.
func connectHint(err error, cfg *pgconn.Config) error {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return refusalHint(err, refused, cfg)
	}
	if hint := tlsHint(err); hint != "" {
		return &Error{err, hint}
	}
	if hint := downgradeHint(err); hint != "" {
		return &Error{err, hint}
	}
	if pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded) {
		return &Error{err, "a server that is stopped, or a load balancer without one, accepts connections and says nothing: see what is at this address"}
	}
	return err
}

// refusalHint explains what a server said. Messages are translated, and some share
// their SQLSTATE: what tells those apart is the function that they come from.
func refusalHint(err error, refused *pgconn.PgError, cfg *pgconn.Config) error {
	const namePostgres = "a connection pooler answers there: name the PostgreSQL server itself in postgres.dsn, since replication does not pass through a pooler"
	if refused.Routine == "" && refused.File == "" && refused.Code == "08P01" {
		// PostgreSQL always names the place in its source, poolers do not.
		if strings.HasPrefix(refused.Message, "unsupported startup parameter") {
			return &Error{fmt.Errorf("%w: %w", ErrSetup, err), namePostgres}
		}
		return &Error{err, namePostgres}
	}
	switch setting := strings.HasPrefix(refused.Routine, "set_config") || strings.HasPrefix(refused.Routine, "find_option") ||
		strings.HasPrefix(refused.Routine, "parse_and_validate") || strings.HasPrefix(refused.Routine, "validate_option"); {
	case refused.Code == undefinedObject, refused.Code == "22023", refused.Code == "55P02", setting:
		return &Error{fmt.Errorf("%w: %w", ErrSetup, err), "correct or remove the setting in postgres.dsn (or PGOPTIONS)"}
	}
	if refused.Message == "SCRAM channel binding check failed" || refused.Routine == "read_client_final_message" && refused.Code == "28000" {
		return &Error{err, "somebody between outboxd and the server ends the TLS connection with another certificate: connect to the server itself; " +
			"only where that is a proxy of your own, set channel_binding=disable in postgres.dsn"}
	}
	switch refused.Code {
	case insufficientPrivilege:
		switch refused.Routine {
		case "CheckMyDatabase":
			return &Error{err, "let the database's owner run GRANT CONNECT ON DATABASE " + QuoteIdent(cfg.Database) + " TO " + QuoteIdent(cfg.User)}
		default:
			return &Error{err, "the role needs REPLICATION: " + managedReplication}
		}
	case "28000":
		switch {
		case strings.Contains(refused.Message, "client certificate"): // translated, it gets the advice of the next case
			return &Error{err, "name the role's certificate and its key by sslcert and sslkey in postgres.dsn"}
		case refused.Routine == "auth_failed" && strings.Contains(refused.Message, "certificate"):
			return &Error{err, "the common name of the certificate that sslcert in postgres.dsn names must be the role's; or let pg_ident.conf map it (map= in pg_hba.conf)"}
		case refused.Routine == "ClientAuthentication":
			return &Error{err, "let it in by a line for this database, user and address in pg_hba.conf, and reload the server"}
		}
		return &Error{err, "the role needs LOGIN and REPLICATION, and pg_hba.conf must let it in (see `outboxd init`)"}
	case "28P01":
		return &Error{err, "check user and password in postgres.dsn"}
	case "3D000":
		return &Error{err, "check the database name in postgres.dsn"}
	case "53300":
		return &Error{err, "raise max_wal_senders or max_connections, or wait until one is free"}
	}
	return err
}

// tlsHint says what fits a failure to make TLS, "" when it is none.
func tlsHint(err error) string {
	var (
		invalid   x509.CertificateInvalidError
		host      x509.HostnameError
		authority x509.UnknownAuthorityError
		other     *tls.CertificateVerificationError
		remote    *net.OpError
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if invalid.Cert != nil && time.Now().Before(invalid.Cert.NotBefore) {
			return "the server's certificate is not valid yet: correct the clock of this machine, or give the server one that is"
		}
		return "the server's certificate, or its authority's, has expired: renew it (or correct the clock of this machine)"
	case errors.As(err, &host):
		return "name the host in postgres.dsn as the certificate does, or give the server a certificate for this name; sslmode=verify-ca does not look at the name"
	case errors.As(err, &authority):
		return "name the certificate of the authority that signed the server's by sslrootcert in postgres.dsn"
	case errors.As(err, &invalid), errors.As(err, &other):
		return "the server's certificate cannot be used: give it another"
	case errors.As(err, &remote) && remote.Op == "remote error" && remote.Err != nil &&
		strings.Contains(remote.Err.Error(), "certificate"):
		return "the server does not accept the certificate that sslcert in postgres.dsn names: give the role one that is valid now, and is signed by the authority of the server's ssl_ca_file"
	case strings.Contains(err.Error(), "server refused TLS connection"):
		return "set ssl = on on the server, or see who else answers at this address; sslmode=disable in postgres.dsn only where everybody on the way may read along"
	}
	return ""
}

// downgradeHint says what fits a server that wants the password in another way than
// postgres.dsn allows, "" when it is none. The password was not sent. The driver has no
// types for these errors.
func downgradeHint(err error) string {
	switch text := err.Error(); {
	case strings.Contains(text, "channel binding required"), strings.Contains(text, "channel binding check failed"):
		return "channel_binding=require in postgres.dsn needs TLS to the server itself (sslmode=verify-full), and scram-sha-256 for this role in pg_hba.conf and in its stored password; " +
			"if the server has them, see who else answers at this address"
	case strings.Contains(text, "authentication method requirement"):
		return "require_auth in postgres.dsn does not allow what the server asks for, and no password was sent: give the role scram-sha-256 in pg_hba.conf; " +
			"if it has that, see who else answers at this address"
	}
	return ""
}
