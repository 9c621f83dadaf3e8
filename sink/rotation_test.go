package sink

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

// The TLS options are asked for at each connection; while they cannot be read the
// sink waits, as for a broker that is down.
func TestCertificatesRotate(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	c := broker(t, 1, kfake.TLS(&tls.Config{Certificates: server.TLS.Certificates}))
	var asked atomic.Int32
	s := &sender{t: t, k: open(t, c, func(o *Options) {
		o.ReadTLS = func() (*tls.Config, error) {
			switch asked.Add(1) {
			case 1:
				return nil, errors.New("kafka.tls: ca: cannot read it")
			case 2:
				return &tls.Config{}, nil // does not know the authority yet
			}
			return &tls.Config{RootCAs: roots}, nil
		}
	})}
	s.send(testTopic, "k", "0")
	s.delivered()
	if asked.Load() < 3 {
		t.Errorf("asked %d times", asked.Load())
	}
}
