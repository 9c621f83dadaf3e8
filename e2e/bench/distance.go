package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"outboxd/e2e/bench/distance"
)

// distances are catch-ups with a line between PostgreSQL and the contestants.
// PostgreSQL itself listens at its near end: a relay would read eagerly, and be
// what is measured. Kafka is reached through one, without a delay: how the
// contestants read is the question here. What the kernel does with the packets costs
// this machine CPU time that two machines would share.
func distances(ctx context.Context, b *bench, s scenario) error {
	if control, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control"); err == nil {
		b.printf("\nTCP's congestion control: %s", control)
	}
	for _, roundTrip := range []time.Duration{time.Millisecond, 10 * time.Millisecond} {
		b.line.SetRoundTrip(roundTrip)
		s.roundTrip = roundTrip
		for _, rows := range []struct {
			name  string
			perTx int
			share float64
		}{{"one", 1, 0.5}, {"hundred", 100, 1}} {
			s.rowsPerTx, s.share = rows.perTx, rows.share
			s.name = fmt.Sprintf("distance-%s-%s", roundTrip, rows.name)
			s.title = fmt.Sprintf("catch-up, PostgreSQL %s away, transactions of rows: %d, 300-byte payloads", roundTrip, rows.perTx)
			if err := catchUp(ctx, b, s); err != nil {
				return err
			}
			if err := b.line.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// distant returns the contestants whose way to read makes the difference.
func (b *bench) distant() []contestant {
	return b.kept(append(b.binaries(), []contestant{
		{"bare reader, eager", runBare("-deliver", "-eager"), nil},
		{"bare reader, socket left full", runBare("-deliver"), nil},
	}...))
}

// connectLine lets PostgreSQL take connections from the line, and leads those to
// Kafka's address at its far end to Kafka.
func (b *bench) connectLine(ctx context.Context) error {
	hba, err := os.OpenFile(filepath.Join(b.postgres.DataDir(), "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	rules := "host all all " + distance.Network + " trust\nhost replication all " + distance.Network + " trust\n"
	if _, err := hba.WriteString(rules); err != nil {
		return err
	}
	if err := hba.Close(); err != nil {
		return err
	}
	if _, err := b.postgres.QueryValue(ctx, "postgres", "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	broker := b.kafka.Brokers()[0]
	listener, err := b.relayInside(broker, broker)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { listener.Close() })
	return nil
}

// relayInside listens at the line's far end, and leads to an address of this machine,
// until the listener is closed.
func (b *bench) relayInside(address, to string) (net.Listener, error) {
	listener, err := b.line.Listen(address)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go relay(conn, to)
		}
	}()
	return listener, nil
}

// relay copies both ways until either side ends.
func relay(client net.Conn, address string) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			_, _ = io.Copy(way[1], way[0])
			ended <- struct{}{}
		}()
	}
	<-ended
}

// dsn leads to the target's database from where the contestant is.
func (b *bench) dsn(t target) string {
	dsn := b.postgres.DSN(t.database)
	switch {
	case t.distant:
		return strings.Replace(dsn, "127.0.0.1", distance.Near, 1)
	case b.over == "tls":
		return strings.Replace(dsn, "sslmode=disable", "sslmode=require", 1)
	case b.over == "unix":
		return dsn + "&host=" + url.QueryEscape(b.postgres.DataDir())
	}
	return dsn
}

// launch starts a contestant where it belongs.
func (b *bench) launch(cmd *exec.Cmd, t target) error {
	if t.distant {
		return b.line.Start(cmd)
	}
	return cmd.Start()
}
