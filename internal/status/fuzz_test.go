package status

import (
	"context"
	"io"
	"testing"
	"time"
)

// FuzzHTTP: whatever a client sends, the server answers in HTTP or closes, and goes
// on to answer others.
func FuzzHTTP(f *testing.F) {
	for _, text := range []string{
		ask, "GET /status HTTP/1.0\r\n\r\n", "POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"GET //../../etc/passwd HTTP/1.1\r\nHost: [::1\r\n\r\n", "GET /status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n\r\n" + ask,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "\x16\x03\x01\x02",
	} {
		f.Add(text)
	}
	s := New(time.Minute)
	p := newPipes()
	ctx, cancel := context.WithCancel(context.Background())
	f.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- s.ServeWith(ctx, p, HTTP{Token: func() (string, error) { return "t", nil }}) }()
	f.Fuzz(func(t *testing.T, text string) {
		client := p.dial()
		if client == nil {
			t.Fatal("nothing is accepted any more")
		}
		answered := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(client)
			answered <- b
		}()
		_ = client.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(client, text)
		time.Sleep(time.Millisecond)
		client.Close()
		if b := <-answered; len(b) > 0 && string(b[:min(len(b), 5)]) != "HTTP/" {
			t.Errorf("%q is answered with %q", text, b)
		}
		select {
		case err := <-ended:
			t.Fatalf("%q ends the server: %v", text, err)
		default:
		}
	})
}
