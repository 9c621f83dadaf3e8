package positions

import (
	"context"
	"crypto/tls"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// An error of the brokers' certificate names the key to change, as the sink's does.
func TestRemedy(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.TLS(&tls.Config{Certificates: server.TLS.Certificates}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s, err := New(Options{Topic: testTopic, Slot: "a", Log: zerolog.Nop(), Client: []kgo.Opt{
		kgo.SeedBrokers(c.ListenAddrs()...), kgo.DialTLSConfig(new(tls.Config)),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for what, err := range map[string]error{
		"load": func() error { _, err := s.Load(ctx); return err }(),
		"save": s.Save(ctx, position(1, "a")),
	} {
		if err == nil || !strings.Contains(err.Error(), "kafka.tls.ca") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
