package sink

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"outboxd/internal/rawconn"
	"outboxd/internal/record"
	"outboxd/internal/tlsdial"
)

// Options configure a Kafka sink. See kafka.* in the configuration.
type Options struct {
	Brokers     []string
	ClientID    string
	Compression string // none, gzip, snappy, lz4, zstd
	Linger      time.Duration
	TLS         *tls.Config    // nil: plaintext
	SASL        sasl.Mechanism // nil: none
	// ReadTLS, if set, is asked for each connection in place of TLS: certificates
	// may have been replaced. Any goroutine may call it.
	ReadTLS func() (*tls.Config, error)
	// CreateTopics makes topics that are missing.
	CreateTopics CreateTopics
	// Backlog is how many bytes of late events are kept together to make larger
	// batches; 0: none.
	Backlog int64
	// ManyPartitions is of how many partitions all topics together are when late events
	// wait by partition; 0: as many as are known to make that pay. In transactions they
	// never do.
	ManyPartitions int32
	// SendDelays, if set, counts the events that waited so.
	SendDelays *atomic.Int64
	// Budget accounts for the memory of deliveries; nil: there is no limit.
	Budget Budget
	// PauseLimit is how long the process may be stopped before the sink gives up
	// what is buffered, because another process may have taken over. 0: for ever.
	PauseLimit time.Duration
	// TransactionalID makes the sink transactional: see Fence. "": it is not.
	TransactionalID string
	// TransactionTimeout is the transactions' time-out, 0 for the default.
	TransactionTimeout time.Duration
	Log                zerolog.Logger
	// OnAck, if set, is called for each acknowledged event from the client's
	// goroutine, before its receipt is told. With transactions it is called by
	// Commit.
	OnAck func(topic string, committed, acked time.Time)
	// Trace, if set, is asked for each acknowledged event, by the same goroutine, and keeps
	// nothing of the record. What it returns, if anything, is called where OnAck is.
	Trace func(r *record.Record) (end func(acked time.Time))
	// Learned is shared by the sinks of one run, and by its other clients; nil: the sink has
	// its own, and other clients have none.
	Learned *Learned
	// Client adds options of the Kafka client; tests use it.
	Client []kgo.Opt
	// Dial and Clock take the place of the network, and of the clock that tells how
	// long the process was stopped; nil: TCP, and the machine's. The simulator has
	// others.
	Dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	Clock func() time.Duration
}

// Connection returns the options of a client of the same cluster.
func (o *Options) Connection() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(o.Brokers...),
		kgo.ClientID(o.ClientID),
		kgo.RetryBackoffFn(retryBackoff),
		kgo.WithLogger(clientLog{o.Log}),
		// An answer takes as much memory as the broker says that it is long. The client
		// wants fetches to be smaller.
		kgo.BrokerMaxReadBytes(maxAnswerBytes),
		kgo.FetchMaxBytes(maxAnswerBytes / 2),
		kgo.Dialer(o.dial(nil)),
	}
	if o.Learned != nil {
		opts = append(opts, kgo.WithHooks(&o.Learned.listeners))
	}
	if o.SASL != nil {
		opts = append(opts, kgo.SASL(o.SASL))
	}
	return opts
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// dial returns how to connect to a broker. Below TLS is what guard, if any, makes of the
// connection.
func (o *Options) dial(guard func(net.Conn) net.Conn) dialFunc {
	connect := o.Dial
	if connect == nil {
		connect = rawconn.Dial(&net.Dialer{Timeout: tlsdial.Timeout})
	}
	if o.Learned != nil {
		connect = o.Learned.listeners.dial(connect)
	}
	read := o.tls()
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := connect(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if guard != nil {
			conn = guard(conn)
		}
		if read == nil {
			return conn, nil
		}
		return tlsdial.Client(ctx, conn, addr, read)
	}
}

// maxAnswerBytes bounds one answer of a broker: the metadata of some hundred thousand
// partitions.
const maxAnswerBytes = 32 << 20

// tls returns how to get the TLS options of a connection, nil for plaintext.
func (o *Options) tls() func() (*tls.Config, error) {
	if o.ReadTLS == nil && o.TLS != nil {
		return func() (*tls.Config, error) { return o.TLS, nil }
	}
	return o.ReadTLS
}

// retryBackoff waits 50 ms after the first failure and at most 2 s: a broker
// that comes back is used at once, one that stays away is not hammered. The client that
// produces has shorter waits, see retries.
func retryBackoff(tries int) time.Duration {
	return min(50*time.Millisecond<<min(tries-1, 10), 2*time.Second)
}
