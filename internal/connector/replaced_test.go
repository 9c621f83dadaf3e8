package connector

import (
	"context"
	"encoding/binary"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/router"
)

// slowly delays the first produce request to one broker, as a segment that is lost and sent
// again: the writer hears nothing of it, and it arrives although the connection is closed.
type slowly struct {
	addr  string
	delay time.Duration

	first sync.Once
	sent  chan struct{} // closed when the request is on its way
}

func (s *slowly) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil || addr != s.addr {
		return conn, err
	}
	return &slowConn{Conn: conn, s: s}, nil
}

type slowConn struct {
	net.Conn
	s       *slowly
	arrives sync.WaitGroup
}

func (c *slowConn) Write(b []byte) (n int, err error) {
	delayed := false
	if len(b) >= 6 && kmsg.Key(binary.BigEndian.Uint16(b[4:])) == kmsg.Produce {
		c.s.first.Do(func() {
			delayed = true
			b := slices.Clone(b)
			c.arrives.Add(1)
			time.AfterFunc(c.s.delay, func() {
				defer c.arrives.Done()
				_, _ = c.Conn.Write(b)
			})
			close(c.s.sent)
		})
	}
	if delayed {
		return len(b), nil
	}
	c.arrives.Wait()
	return c.Conn.Write(b)
}

// The system sends what it has, whatever the writer's deadline.
func (c *slowConn) SetWriteDeadline(time.Time) error { return nil }

func (c *slowConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *slowConn) Close() error {
	go func() {
		c.arrives.Wait()
		_ = c.Conn.Close()
	}()
	return c.SetReadDeadline(time.Now())
}

// What a sink has sent that is replaced, since another broker has refused a record, does
// not arrive among what the next one sends.
func TestReplacedSinkDoesNotInterfere(t *testing.T) {
	h := newHarness(t)
	kafka, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(1, "t", "u"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	h.kafka, h.o.Sink.Brokers = kafka, kafka.ListenAddrs()
	for node, topic := range []string{"t", "u"} {
		if err := kafka.MoveTopicPartition(topic, 0, int32(node)); err != nil {
			t.Fatal(err)
		}
	}
	slow := &slowly{addr: kafka.ListenAddrs()[0], delay: 500 * time.Millisecond, sent: make(chan struct{})}
	h.o.Sink.Dial = slow.dial
	h.o.Rules.Overrides = []router.Override{{Type: "bad", Topic: "u"}}
	kafka.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "u", Err: kerr.InvalidRecord})

	h.server.commit("1")
	h.run()
	<-slow.sent
	tx := h.server.commitRows(bad("refused"), "refused", "2")
	h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
	h.until("what was late has arrived", func() bool { return len(h.records()) >= 3 })
	h.stop()
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	if got := h.records(); !slices.Equal(got, []string{"1", "1", "2"}) {
		t.Errorf("published %q: what may repeat is a suffix", got)
	}
}
