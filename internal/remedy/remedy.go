// Package remedy says which key of the configuration an error of a connection to Kafka
// or to the schema registry is about. Whoever talks to them shows its errors with it.
package remedy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Kafka returns what an operator can do about an error of the brokers' connection,
// as "; do this" to append to the error's text, or "" when there is nothing to add.
func Kafka(err error) string {
	if errors.Is(err, kerr.SaslAuthenticationFailed) || errors.Is(err, kerr.UnsupportedSaslMechanism) || errors.Is(err, kerr.IllegalSaslState) {
		return "; look at kafka.sasl"
	}
	if mismatch := listener(err); mismatch != "" {
		return mismatch
	}
	return peer{"the brokers", "brokers'", "want", "they accept", "kafka.tls"}.remedy(err)
}

// listener is for a connection that expects TLS or a login where the broker's listener does
// not, or the other way round. The client tells by its words how far it came.
func listener(err error) string {
	var hungUp *kgo.ErrFirstReadEOF
	var said string
	if err != nil {
		said = err.Error()
	}
	switch hangs := errors.As(err, &hungUp); {
	case errors.As(err, new(tls.RecordHeaderError)), hangs && strings.Contains(said, "is TLS misconfigured"):
		return "; this listener speaks no TLS: name one that does in kafka.brokers, or see who else answers there; kafka.tls.enabled: false only where everybody on the way may read along"
	case strings.Contains(said, "is this a plaintext connection speaking to a tls endpoint"), hangs && strings.Contains(said, "is TLS missing"):
		return "; this listener may want TLS: set kafka.tls.enabled: true"
	case hangs:
		return "; this listener may want a login: look at kafka.sasl"
	}
	return ""
}

// Registry is Kafka for the schema registry. It is about errors without an answer.
func Registry(err error) string {
	var record tls.RecordHeaderError
	if errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &record) {
		return "; it speaks no TLS there, look at value.avro.registry"
	}
	return peer{"the registry", "registry's", "wants", "it accepts", "value.avro.tls"}.remedy(err)
}

// peer is who is at the other end, in words, and the group of its TLS keys.
type peer struct{ who, whose, wants, accepts, group string }

// remedy is for errors of TLS.
func (p peer) remedy(err error) string {
	var unverified *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	var remote *net.OpError
	switch {
	case errors.As(err, &host):
		return "; name a host of the " + p.whose + " certificate by " + p.group + ".server_name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "; the " + p.whose + " certificate has expired or is not yet valid: renew it, or correct this host's clock"
	case errors.As(err, &unverified):
		return "; name the authority of the " + p.whose + " certificate by " + p.group + ".ca"
	case !errors.As(err, &remote) || remote.Op != "remote error" || remote.Err == nil:
		return ""
	}
	keys := "give " + p.group + ".cert and " + p.group + ".key"
	switch said := remote.Err.Error(); {
	case strings.Contains(said, "certificate"):
		return "; " + p.who + " " + p.wants + " a client certificate that " + p.accepts + ": " + keys
	case strings.Contains(said, "handshake failure"): // what TLS 1.2 has to say of a certificate that is missing
		return "; " + p.who + " may want a client certificate: " + keys
	}
	return ""
}
