package sink

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"outboxd/internal/testbed"
)

// hostile is a broker that answers each request by a function.
func hostile(t *testing.T, answer func(conn net.Conn, request []byte)) (addr string) {
	t.Helper()
	broker, err := testbed.NewStub(func(conn net.Conn) {
		for {
			var size [4]byte
			if _, err := io.ReadFull(conn, size[:]); err != nil {
				return
			}
			request := make([]byte, min(binary.BigEndian.Uint32(size[:]), 1<<20))
			if _, err := io.ReadFull(conn, request); err != nil {
				return
			}
			answer(conn, request)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	return broker.Addr()
}

// Whatever a broker answers, the sink waits within its memory, and says why.
func TestHostileBroker(t *testing.T) {
	sized := func(size uint32, body []byte) func(net.Conn, []byte) {
		return func(conn net.Conn, request []byte) {
			b := binary.BigEndian.AppendUint32(nil, size)
			_, _ = conn.Write(append(append(b, request[4:8]...), body...))
		}
	}
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	tests := map[string]func(net.Conn, []byte){
		"garbage": func(conn net.Conn, _ []byte) { _, _ = conn.Write(noise(4096)) },
		"huge":    sized(90<<20, nil), "negative length": sized(1<<31+5, nil), "empty": sized(0, nil),
		"array of 2^31":        sized(12, []byte{0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0}),
		"wrong correlation id": func(conn net.Conn, _ []byte) { _, _ = conn.Write([]byte{0, 0, 0, 8, 9, 9, 9, 9, 0, 0, 0, 0}) },
		"silence":              func(net.Conn, []byte) {},
		"drip": func(conn net.Conn, _ []byte) {
			for range 1000 {
				if _, err := conn.Write([]byte{0}); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		},
		"closes": func(conn net.Conn, _ []byte) { conn.Close() },
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, err := New(Options{Brokers: []string{hostile(t, answer)}, ClientID: "test", Compression: "none", Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			s := &sender{t: t, k: k}
			for range 100 {
				s.send(testTopic, "k", "0")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if err := k.Diagnose(ctx); err == nil || !strings.Contains(err.Error(), "ask the brokers") {
				t.Errorf("Diagnose says %v", err)
			}
			if err := k.Err(); err != nil || s.acknowledged() != 0 {
				t.Errorf("the sink: %v, %d acknowledged", err, s.acknowledged())
			}
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			if now.HeapAlloc > before.HeapAlloc && now.HeapAlloc-before.HeapAlloc > 80<<20 {
				t.Errorf("the heap has grown by %d MB", (now.HeapAlloc-before.HeapAlloc)>>20)
			}
		})
	}
}

// More topics than a client is to know: it is replaced, after everything is answered.
func TestTopicsAreBounded(t *testing.T) {
	var log journal
	c := broker(t, 1)
	s := &sender{t: t, k: open(t, c, func(o *Options) { o.Log = zerolog.New(&log).Level(zerolog.WarnLevel) })}
	s.send(testTopic, "k", "0")
	k := s.k
	k.mu.Lock()
	for i := len(k.topics); i < maxTopics; i++ {
		k.topics[key(i)] = k.topics[testTopic]
	}
	k.mu.Unlock()
	if err := s.try("one-more", "k", nil); !errors.Is(err, errManyTopics) {
		t.Errorf("one topic more: %v", err)
	}
	until(t, "the event before is acknowledged", func() bool { return s.acknowledged() == 1 })
}

// What is learned of topics does not grow without end either.
func TestLessonsAreBounded(t *testing.T) {
	l := NewLearned()
	for i := range 3 * maxTopics {
		l.change(key(i), func(l *lesson) { l.careful = true })
	}
	if len(l.topics) > maxTopics || !l.of(key(3*maxTopics-1)).careful {
		t.Errorf("%d lessons", len(l.topics))
	}
}
