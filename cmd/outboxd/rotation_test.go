package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/config"
	"outboxd/internal/status"
)

// cutter lets a test end all connections of a server.
type cutter struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (c *cutter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
	}
	return conn, err
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// A Kafka password that is replaced in its file is used by the next connection. While
// the file is missing the connection fails, and the client tries again.
func TestKafkaPasswordRotates(t *testing.T) {
	for mechanism, how := range map[string]kadm.ScramMechanism{"SCRAM-SHA-256": kadm.ScramSha256, "SCRAM-SHA-512": kadm.ScramSha512} {
		t.Run(mechanism, func(t *testing.T) {
			var connections cutter
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"), kfake.EnableSASL(), kfake.Superuser(mechanism, "app", "old"),
				kfake.ListenFn(func(network, address string) (net.Listener, error) {
					l, err := net.Listen(network, address)
					connections.Listener = l
					return &connections, err
				}))
			if err != nil {
				t.Fatal(err)
			}
			defer cluster.Close()
			file := filepath.Join(t.TempDir(), "password")
			replace := func(password string) {
				t.Helper()
				if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			replace("old")
			path := write(t, "postgres: {dsn: host=db}\nkafka: {brokers: ['"+cluster.ListenAddrs()[0]+"'], sasl: {mechanism: "+mechanism+", username: app, password: '${file:"+file+"}'}}\n")
			cfg, err := config.Load(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			o, err := connectorOptions(cfg, status.New(0), zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			client, err := kgo.NewClient(append(o.Sink.Connection(), kgo.MetadataMinAge(10*time.Millisecond))...)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			deliver := func() error {
				return client.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("x")}).FirstErr()
			}
			if err := deliver(); err != nil {
				t.Fatal(err)
			}
			changed, err := kadm.NewClient(client).AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: "app", Mechanism: how, Iterations: 4096, Password: "new"}})
			if err != nil || changed.Error() != nil {
				t.Fatal(err, changed.Error())
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			connections.cut()
			for ctx.Err() == nil { // the first may still use the connection that was cut
				if err = client.Ping(ctx); err != nil && !errors.Is(err, io.EOF) {
					break
				}
			}
			if err == nil || !strings.Contains(err.Error(), "kafka.sasl.password: ${file:"+file+"}: no such file") {
				t.Errorf("without the file: %v", err)
			}
			delivered := make(chan error, 1)
			go func() { delivered <- deliver() }() // which waits for the file
			time.Sleep(50 * time.Millisecond)
			replace("new")
			if err := <-delivered; err != nil {
				t.Errorf("after the rotation: %v", err)
			}
		})
	}
}
