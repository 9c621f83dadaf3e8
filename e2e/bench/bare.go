package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sys/unix"
)

// bare is what a connector costs at least: it reads the stream and, with
// -deliver, produces a record for each insert. It has no configuration, checks
// nothing, remembers nothing and recovers from nothing. Its memory is bounded as outboxd's
// is (kafka.max_buffered), and its client has the same settings.
func bare(args []string) error {
	flags := flag.NewFlagSet("bare", flag.ExitOnError)
	eager := flags.Bool("eager", false, "read as soon as something is there")
	deliver := flags.Bool("deliver", false, "produce to Kafka")
	headers := flags.Bool("headers", false, "write the headers that outboxd writes, not the id alone")
	receiveBuffer := flags.Int("buffer", 256<<10, "receive buffer of the socket, if not eager, in bytes")
	rest := flags.Duration("rest", 10*time.Millisecond, "how long to wait after a read of less than half a receive buffer, if not eager")
	look := flags.Bool("look", false, "while waiting, look every millisecond whether more is worth waiting for")
	compression := flags.String("compression", "lz4", "none, lz4 or zstd")
	byType := flags.Bool("bytype", false, "the topic's name ends in each event's type")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dsn, slot, broker, topic := flags.Arg(0), flags.Arg(1), flags.Arg(2), flags.Arg(3)
	events, err := strconv.ParseInt(flags.Arg(4), 10, 64)
	if err != nil {
		return err
	}
	if *eager {
		*receiveBuffer, *rest = 0, 0
	}
	conn, err := bareStream(dsn, slot, *receiveBuffer)
	if err != nil {
		return err
	}
	codecs, ok := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}[*compression]
	if !ok {
		return fmt.Errorf("no compression %q", *compression)
	}
	debug.SetGCPercent(bareGCPercent)
	debug.SetMemoryLimit(bareHeap)
	r := bareReader{conn: conn, headers: *headers, look: *look, rest: *rest, little: *receiveBuffer / 2, events: events, topic: topic, byType: *byType, topics: make(map[string]string), buf: make([]byte, max(512<<10, 2**receiveBuffer))}
	if *deliver {
		r.client, err = kgo.NewClient(kgo.SeedBrokers(broker), kgo.ProducerBatchCompression(codecs),
			kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(1_048_588), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
			kgo.MaxBufferedRecords(bareEvents/bareOverhead), kgo.MaxBufferedBytes(bareEvents),
			// As outboxd's, see sink/leaders.go: it waits no longer for a new leader.
			kgo.MetadataMinAge(100*time.Millisecond), kgo.RequestRetries(300), kgo.UnknownTopicRetries(-1), kgo.AlwaysRetryEOF(),
			kgo.RetryBackoffFn(func(tries int) time.Duration { return min(25*time.Millisecond<<min(tries-1, 3), 200*time.Millisecond) }))
		if err != nil {
			return err
		}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		os.Exit(0)
	}()
	if err := r.read(); err != nil {
		return err
	}
	fmt.Println(r.reads, segments(conn))
	return nil
}

const (
	// bareHeap and bareGCPercent are what outboxd tells the Go runtime, and bareEvents is
	// what it lets events take, of the 64 MiB that kafka.max_buffered is by default
	// (cmd/outboxd/run.go, wiring.go).
	bareHeap      = 38 << 20
	bareGCPercent = 40
	bareEvents    = 20 << 20
	// bareOverhead is what a record of 300 bytes takes in memory, with the client's share.
	bareOverhead = 1400
)

// segments is how many TCP segments with data have arrived.
func segments(conn net.Conn) (n uint32) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
					n = info.Data_segs_in
				}
			})
		}
	}
	return n
}

// bareStream starts to stream; receiveBuffer 0 leaves the socket's to the system.
func bareStream(dsn, slot string, receiveBuffer int) (net.Conn, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["replication"] = "database"
	if receiveBuffer > 0 {
		dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receiveBuffer)
			})
		}}
		config.DialFunc = dialer.DialContext
	}
	pg, err := pgconn.ConnectConfig(context.Background(), config)
	if err != nil {
		return nil, err
	}
	hijacked, err := pg.Hijack()
	if err != nil {
		return nil, err
	}
	query, err := (&pgproto3.Query{String: fmt.Sprintf(`START_REPLICATION SLOT %s LOGICAL 0/0 (proto_version '1', publication_names 'outboxd')`, slot)}).Encode(nil)
	if err != nil {
		return nil, err
	}
	_, err = hijacked.Conn.Write(query)
	return hijacked.Conn, err
}

type bareReader struct {
	conn   net.Conn
	client *kgo.Client
	look   bool
	// headers says to write all headers; commit and number are their position.
	headers bool
	commit  uint64
	number  int
	rest    time.Duration // after a read of less than little bytes
	little  int
	events  int64
	topic   string
	byType  bool
	topics  map[string]string // by type, with byType
	buf     []byte
	reads   int
	seen    int64
	acked   atomic.Int64
}

var errDone = errors.New("done")

func (r *bareReader) read() error {
	used := 0
	status := time.Now()
	for {
		n, err := r.conn.Read(r.buf[used:])
		if err != nil {
			return err
		}
		used += n
		r.reads++
		rest := r.buf[:used]
		for len(rest) >= 5 {
			size := 1 + int(binary.BigEndian.Uint32(rest[1:]))
			if len(rest) < size {
				break
			}
			if err := r.message(rest[:size]); err != nil {
				if errors.Is(err, errDone) {
					return nil
				}
				return err
			}
			rest = rest[size:]
		}
		if used = copy(r.buf, rest); used == len(r.buf) {
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
		if time.Since(status) > 5*time.Second {
			// The slot stays where it is: every run starts at the same place.
			if _, err := r.conn.Write(append([]byte{'d', 0, 0, 0, 38, 'r'}, make([]byte, 33)...)); err != nil {
				return err
			}
			status = time.Now()
		}
		if n < r.little && r.seen < r.events {
			r.wait()
		}
	}
}

// wait rests. When it looks, it ends as soon as nothing more arrives, which is when
// the window is closed, or the server has nothing.
func (r *bareReader) wait() {
	if !r.look {
		time.Sleep(r.rest)
		return
	}
	for before, until := -1, time.Now().Add(r.rest); time.Now().Before(until); {
		time.Sleep(time.Millisecond)
		now := readable(r.conn)
		if now == before || now >= 3*r.little/2 {
			return
		}
		before = now
	}
}

// readable is how many bytes the socket holds.
func readable(conn net.Conn) (n int) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		}
	}
	return n
}

func (r *bareReader) message(m []byte) error {
	switch {
	case m[0] == 'E':
		return fmt.Errorf("server: %q", m)
	case m[0] != 'd' || m[5] != 'w':
		return nil
	case m[30] == 'B':
		r.commit, r.number = binary.BigEndian.Uint64(m[31:]), 0
		return nil
	case m[30] != 'I':
		return nil
	}
	r.seen++
	if r.client == nil {
		if r.seen == r.events {
			return errDone
		}
		return nil
	}
	// Copies of the third and fifth column: key and payload.
	row := m[38:]
	var columns [5][]byte
	for i := range columns {
		size := int(binary.BigEndian.Uint32(row[1:]))
		columns[i] = row[5 : 5+size]
		row = row[5+size:]
	}
	topic := r.topic
	if r.byType {
		var known bool
		if topic, known = r.topics[string(columns[3])]; !known {
			topic = r.topic + string(columns[3])
			r.topics[string(columns[3])] = topic
		}
	}
	record := &kgo.Record{Topic: topic, Key: append([]byte(nil), columns[2]...), Value: append([]byte(nil), columns[4]...)}
	record.Headers = []kgo.RecordHeader{{Key: "id", Value: append([]byte(nil), columns[0]...)}}
	if r.headers {
		r.number++
		record.Headers = append(record.Headers,
			kgo.RecordHeader{Key: "type", Value: append([]byte(nil), columns[3]...)},
			kgo.RecordHeader{Key: "aggregate_type", Value: append([]byte(nil), columns[1]...)},
			kgo.RecordHeader{Key: "aggregate_id", Value: record.Key},
			kgo.RecordHeader{Key: "position", Value: fmt.Appendf(nil, "%016X-%08X", r.commit, r.number)})
	}
	r.client.Produce(context.Background(), record, func(_ *kgo.Record, err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "bare: produce:", err)
			os.Exit(1)
		}
		r.acked.Add(1)
	})
	return nil
}
