package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// waits are the times in which a broker had a request to produce to a partition: the rest
// of a time without delivery is the client's.
type waits struct {
	mu  sync.Mutex
	all []*wait // in the order of their beginnings
}

// wait is one of them, for one partition.
type wait struct {
	broker    int // its index
	partition int32
	from, to  time.Time // to is zero until the broker has answered, or the connection has ended
}

// forget forgets the waits of the contestant before.
func (w *waits) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = nil
}

func (w *waits) begin(broker int, partitions []int32) (begun []*wait) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, p := range partitions {
		begun = append(begun, &wait{broker: broker, partition: p, from: now})
	}
	w.all = append(w.all, begun...)
	return begun
}

func (w *waits) end(begun []*wait) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, b := range begun {
		b.to = now
	}
}

// without returns how long, between two times, a broker had no request to produce to a
// partition.
func (w *waits) without(broker int, partition int32, from, to time.Time) (free time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.all {
		if b.broker != broker || b.partition != partition || !b.to.IsZero() && !b.to.After(from) {
			continue
		}
		if !b.from.Before(to) {
			break
		}
		free += max(b.from.Sub(from), 0)
		if b.to.IsZero() || !b.to.Before(to) {
			return free
		}
		from = b.to
	}
	return free + to.Sub(from)
}

// relay passes connections on to a broker, and counts what clients ask.
func (f *failing) relay(l net.Listener, broker int) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer client.Close()
			server, err := net.Dial("tcp", f.Brokers()[broker])
			if err != nil {
				f.asked.refused.Add(1)
				return
			}
			defer server.Close()
			c := relayed{failing: f, broker: broker, pending: make(map[int32][]*wait)}
			go func() {
				defer client.Close()
				_ = c.answers(client, server)
			}()
			_ = c.requests(server, client)
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, begun := range c.pending {
				f.waits.end(begun)
			}
		}()
	}
}

// relayed is a connection that is passed on.
type relayed struct {
	*failing
	broker  int
	mu      sync.Mutex
	pending map[int32][]*wait // by correlation ID
}

// requests copies a client's requests. Each begins with its length in four bytes, its kind
// and version in two each, and its correlation ID in four.
func (c *relayed) requests(to io.Writer, from io.Reader) error {
	return frames(to, from, 12, func(head []byte) (whole bool) {
		kind := int16(binary.BigEndian.Uint16(head[4:]))
		if kind == int16(kmsg.Metadata) {
			c.asked.metadata.Add(1)
		}
		return kind == int16(kmsg.Produce)
	}, func(frame []byte) error {
		partitions, err := producedTo(frame)
		if err != nil {
			return err
		}
		begun := c.waits.begin(c.broker, partitions)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pending[int32(binary.BigEndian.Uint32(frame[8:]))] = begun
		return nil
	})
}

// answers copies a broker's answers. Each begins with its length and the correlation ID of
// its request, in four bytes each.
func (c *relayed) answers(to io.Writer, from io.Reader) error {
	return frames(to, from, 8, func(head []byte) (whole bool) {
		id := int32(binary.BigEndian.Uint32(head[4:]))
		c.mu.Lock()
		defer c.mu.Unlock()
		if begun, waits := c.pending[id]; waits {
			c.waits.end(begun)
			delete(c.pending, id)
		}
		return false
	}, nil)
}

// frames copies what begins with its length in four bytes. Of each, look is given the
// first bytes, head of them, and may ask for the whole before it is passed on.
func frames(to io.Writer, from io.Reader, head int, look func(head []byte) (whole bool), whole func(frame []byte) error) error {
	buf := make([]byte, head)
	for {
		frame := buf[:head]
		if _, err := io.ReadFull(from, frame); err != nil {
			return err
		}
		rest := int64(binary.BigEndian.Uint32(frame)) + 4 - int64(head)
		if rest < 0 {
			return errors.New("a frame that is too short")
		}
		if look(frame) {
			frame = append(frame, make([]byte, rest)...)
			if _, err := io.ReadFull(from, frame[head:]); err != nil {
				return err
			}
			if err := whole(frame); err != nil {
				return err
			}
			rest = 0
		}
		if _, err := to.Write(frame); err != nil {
			return err
		}
		if _, err := io.CopyN(to, from, rest); err != nil {
			return err
		}
	}
}

// producedTo returns the partitions of a request to produce: the scenario has one topic.
func producedTo(frame []byte) (partitions []int32, err error) {
	req := kmsg.NewPtrProduceRequest()
	req.Version = int16(binary.BigEndian.Uint16(frame[6:]))
	r := kbin.Reader{Src: frame[12:]}
	r.NullableString() // the client's ID
	if req.IsFlexible() {
		kmsg.SkipTags(&r)
	}
	if err := req.ReadFrom(r.Src); err != nil {
		return nil, err
	}
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			partitions = append(partitions, p.Partition)
		}
	}
	return partitions, nil
}
