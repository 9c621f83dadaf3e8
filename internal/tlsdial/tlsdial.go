// Package tlsdial makes TLS connections whose certificates may be replaced while the
// process runs.
package tlsdial

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// Timeout bounds a connection attempt to one server.
const Timeout = 10 * time.Second

// Client makes the connection to addr a TLS one, or closes it. read is asked for the
// options of each connection anew.
func Client(ctx context.Context, conn net.Conn, addr string, read func() (*tls.Config, error)) (_ net.Conn, err error) {
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	config, err := read()
	if err != nil {
		return nil, err
	}
	config = config.Clone()
	if config.ServerName == "" {
		if config.ServerName, _, err = net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("server name of %s: %w", addr, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	client := tls.Client(conn, config)
	if err := client.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return client, nil
}
