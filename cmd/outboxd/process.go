package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"outboxd/internal/config"
	"outboxd/internal/status"
)

const (
	processTimeout = 5 * time.Second
	maxStatus      = 1 << 20
)

// askProcess asks the connector of the same configuration, on this host, for its
// status.
func askProcess(ctx context.Context, cfg config.HTTP) (*status.Report, error) {
	if cfg.Listen == "" {
		return nil, errors.New("http.listen is off")
	}
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, err
	}
	if port == "0" {
		return nil, errors.New("http.listen has port 0: whichever is free")
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	transport := &http.Transport{DisableKeepAlives: true}
	url := "http://" + net.JoinHostPort(host, port) + "/status"
	if cfg.TLS.Cert != "" {
		url = "https" + url[len("http"):]
		if transport.TLSClientConfig, err = pinned(cfg.TLS.Cert); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, processTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	token, err := cfg.Token.Current()
	if err != nil {
		return nil, fmt.Errorf("http.token: %w", err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	// A redirect would take the token elsewhere; outboxd answers with none.
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("nothing answers at http.listen: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxStatus))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %q", url, response.Status)
	}
	r := status.Report{Process: new(status.Process)}
	if err := json.Unmarshal(body, &r); err != nil || r.Role == "" {
		return nil, fmt.Errorf("what answers at %s is no outboxd", url)
	}
	return &r, nil
}

// pinned are options of a client that trusts the certificate in a file, whatever its
// name: the process is asked by an address that the certificate need not have.
func pinned(file string) (*tls.Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("http.tls.cert: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("http.tls.cert: %s holds no PEM certificate", file)
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyPeerCertificate is stricter
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) == 0 || !bytes.Equal(raw[0], block.Bytes) {
				return errors.New("the certificate is not that of http.tls.cert")
			}
			return nil
		},
	}, nil
}
