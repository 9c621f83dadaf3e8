package remedy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestKafka(t *testing.T) {
	verification := func(err error) error { return &tls.CertificateVerificationError{Err: err} }
	for _, test := range []struct {
		err  error
		says string // "": nothing
	}{
		{verification(x509.UnknownAuthorityError{}), "kafka.tls.ca"},
		{verification(x509.HostnameError{Certificate: new(x509.Certificate), Host: "b"}), "kafka.tls.server_name"},
		{verification(x509.CertificateInvalidError{Reason: x509.Expired}), "has expired"},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}, "kafka.tls.cert"},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: handshake failure")}, "may want a client certificate"},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: protocol version not supported")}, ""},
		{&net.OpError{Op: "remote error"}, ""},
		{kerr.SaslAuthenticationFailed, "kafka.sasl"},
		{kerr.UnsupportedSaslMechanism, "kafka.sasl"},
		{kerr.IllegalSaslState, "kafka.sasl"},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, "kafka.tls.enabled: false"},
		{new(kgo.ErrFirstReadEOF), "kafka.tls.enabled: false"},
		{errors.New("invalid large response size; is this a plaintext connection speaking to a tls endpoint?"), "set kafka.tls.enabled: true"},
		{kerr.NotLeaderForPartition, ""},
		{nil, ""},
	} {
		got := Kafka(fmt.Errorf("dial: %w", test.err))
		if !strings.Contains(got, test.says) || (test.says == "") != (got == "") {
			t.Errorf("%v: %q, want %q", test.err, got, test.says)
		}
	}
}
