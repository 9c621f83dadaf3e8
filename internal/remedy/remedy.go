// Package remedy says which key of the configuration an error of the Kafka client
// is about. Whoever talks to the brokers shows its errors with it.
package remedy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Kafka returns what an operator can do about an error of the brokers' connection,
// as "; do this" to append to the error's text, or "" when there is nothing to add.
func Kafka(err error) string {
	var unverified *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	var remote *net.OpError
	switch {
	case errors.As(err, &host):
		return "; name a host of the brokers' certificate by kafka.tls.server_name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "; the brokers' certificate has expired or is not yet valid: renew it, or correct this host's clock"
	case errors.As(err, &unverified):
		return "; name the authority of the brokers' certificate by kafka.tls.ca"
	case errors.As(err, &remote) && remote.Op == "remote error" && strings.Contains(remote.Err.Error(), "certificate"):
		return "; the brokers want another certificate than that of kafka.tls.cert"
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.UnsupportedSaslMechanism):
		return "; look at kafka.sasl"
	}
	return ""
}
