package sink

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A proxy, such as a service mesh's, accepts connections for a broker that is away and closes
// them. That is no reason to give up what is in flight, where the broker has answered before.
func TestProxyHangsUpForABroker(t *testing.T) {
	const partitions = 8
	p := new(flaky)
	c := broker(t, partitions, p.listen())
	s := &sender{t: t, k: open(t, c)}
	s.send(testTopic, "k", "0")
	s.delivered()
	p.shutDown()
	s.send(testTopic, "k", "1") // may be sent already: the client does not give up that one
	until(t, "the client has noticed", func() bool { return p.refused.Load() > 0 })
	for i := range 2 * partitions {
		s.send(testTopic, fmt.Sprint(i), "2")
	}
	tried := p.refused.Load() + 10
	until(t, "the client has tried some times", func() bool {
		select {
		case <-s.k.Failed():
			t.Fatalf("the sink failed: %v", s.k.Err())
		default:
		}
		return p.refused.Load() > tried
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.k.Diagnose(ctx); err == nil || !strings.Contains(err.Error(), "a proxy whose broker is away, closes connections at once") {
		t.Errorf("what is said of it: %v", err)
	}
	p.shut.Store(false)
	s.delivered()
	consume(t, c, 2+2*partitions)
}

// What a client is told of a connection's end depends on what this listener has answered.
func TestEndOfABrokersConnection(t *testing.T) {
	here := kgo.BrokerMetadata{Host: "broker", Port: 9092}
	answers := func(b kgo.BrokerMetadata, key kmsg.Key, err error) func(*listeners) {
		return func(l *listeners) { l.OnBrokerRead(b, key.Int16(), 0, 0, 0, err) }
	}
	nobody := &net.OpError{Op: "dial", Net: "tcp", Err: errNobody}
	for name, test := range map[string]struct {
		before func(*listeners)
		sent   string
		end    error
		want   error
	}{
		"nobody has answered":          {func(*listeners) {}, "", io.EOF, io.EOF},
		"another listener has":         {answers(kgo.BrokerMetadata{Host: "broker", Port: 9093}, kmsg.Metadata, nil), "", io.EOF, io.EOF},
		"it let nobody in":             {answers(here, kmsg.ApiVersions, nil), "", io.EOF, io.EOF},
		"it did not answer":            {answers(here, kmsg.Metadata, io.EOF), "", io.EOF, io.EOF},
		"it has answered":              {answers(here, kmsg.Metadata, nil), "", io.EOF, nobody},
		"it has, and resets":           {answers(here, kmsg.Produce, nil), "", syscall.ECONNRESET, nobody},
		"it has, also here":            {answers(here, kmsg.Metadata, nil), "x", io.EOF, io.EOF},
		"it has, also here, and reset": {answers(here, kmsg.Metadata, nil), "x", syscall.ECONNRESET, syscall.ECONNRESET},
		"the read took too long":       {answers(here, kmsg.Metadata, nil), "", os.ErrDeadlineExceeded, os.ErrDeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			var l listeners
			test.before(&l)
			conn, err := l.dial(func(context.Context, string, string) (net.Conn, error) {
				return &ending{sent: test.sent, end: test.end}, nil
			})(t.Context(), "tcp", "broker:9092")
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 10)
			if n, err := conn.Read(b[:len(test.sent)]); len(test.sent) > 0 && (err != nil || string(b[:n]) != test.sent) {
				t.Fatalf("%q, %v", b[:n], err)
			}
			if n, err := conn.Read(b); n != 0 || !reflect.DeepEqual(err, test.want) {
				t.Errorf("%d bytes, %v; want %v", n, err, test.want)
			}
		})
	}
}

// ending is a connection from which something may be read once, and then its end.
type ending struct {
	net.Conn
	sent string
	end  error
}

func (e *ending) RemoteAddr() net.Addr { return nil }

func (e *ending) Read(b []byte) (n int, err error) {
	if n = copy(b, e.sent); n > 0 {
		e.sent = ""
		return n, nil
	}
	return 0, e.end
}
