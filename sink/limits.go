package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/poison"
	"outboxd/internal/record"
)

// defaultBatchLimit is Kafka's default of message.max.bytes. It is assumed while
// the broker does not say.
const defaultBatchLimit = 1_048_588

// The client takes batch limits between these only.
const minBatchLimit, maxBatchLimit = 512, 1 << 26

// describeTimeout bounds one question about topics. After one that failed, no other
// is asked for as long as describePause: a broker that is down is not asked topic by
// topic.
const describeTimeout, describePause = 5 * time.Second, 30 * time.Second

// limit is what a topic takes: how large a batch may be, in bytes, and how far a
// record's time may lie before and after the broker's clock, in milliseconds.
type limit struct {
	bytes         int
	before, after int64
	// retention is how old records are deleted, in milliseconds; unlimited: never.
	retention int64
	source    limitSource
}

// unlimited is Kafka's default of message.timestamp.before.max.ms.
const unlimited = math.MaxInt64

type limitSource int

const (
	assumed   limitSource = iota // the topic is not there yet, or no broker answered
	told                         // by the broker
	forbidden                    // the broker does not tell us: it decides when it has the record
)

var unknownLimit = limit{bytes: defaultBatchLimit, before: unlimited, after: unlimited, retention: unlimited}

// timed tells whether the time of a record has to be checked.
func (l *limit) timed(d *Delivery) bool {
	return d.Clock == record.BusinessTime && l.after != unlimited || d.Clock != record.SendTime && l.before != unlimited
}

// checkTime refuses a time that the topic does not take and will never take. The
// broker would refuse the whole batch, without saying which of its records is to
// blame. A commit in the future is not refused: the clocks may be set right.
func (k *Kafka) checkTime(l *limit, d *Delivery) error {
	r := &d.Record.Record
	ahead := r.Timestamp.UnixMilli() - time.Now().UnixMilli()
	switch column := d.Clock == record.BusinessTime; {
	case column && ahead > l.after:
		return poison.Timestamp.Mark(fmt.Errorf("%w: its time (outbox.columns.timestamp, value.timestamp: column) %s is too far after the present for topic %q (message.timestamp.after.max.ms = %d)",
			ErrUndeliverable, r.Timestamp.Format(time.RFC3339Nano), r.Topic, l.after))
	case column && -ahead > l.before:
		return poison.Timestamp.Mark(fmt.Errorf("%w: its time (outbox.columns.timestamp, value.timestamp: column) %s is too far before the present for topic %q (message.timestamp.before.max.ms = %d); raise that, or set value.timestamp: now",
			ErrUndeliverable, r.Timestamp.Format(time.RFC3339Nano), r.Topic, l.before))
	case -ahead > l.before:
		return poison.Timestamp.Mark(fmt.Errorf("%w: it was committed at %s, too far before the present for topic %q (message.timestamp.before.max.ms = %d); raise that, or set value.timestamp: now",
			ErrUndeliverable, r.Timestamp.Format(time.RFC3339Nano), r.Topic, l.before))
	}
	return nil
}

// timeRefused explains the broker's refusal of a record's time.
func timeRefused(r *kgo.Record) string {
	now := time.Now()
	what := "the record's time"
	if d, ok := r.Context.(*Delivery); ok && d.Clock == record.BusinessTime {
		what = "its time (outbox.columns.timestamp, value.timestamp: column)"
	}
	if r.Timestamp.Before(now) {
		return fmt.Sprintf("%s is %s, %s before the present: raise message.timestamp.before.max.ms of the topic, or set value.timestamp: now",
			what, r.Timestamp.UTC().Format(time.RFC3339), now.Sub(r.Timestamp).Round(time.Second))
	}
	return fmt.Sprintf("%s is %s, %s after the present: set the clocks of PostgreSQL, this host and the brokers right, raise message.timestamp.after.max.ms of the topic, or set value.timestamp: now",
		what, r.Timestamp.UTC().Format(time.RFC3339), r.Timestamp.Sub(now).Round(time.Second))
}

// retentionEvery is how many events of a topic there are to one whose age is looked
// at.
const retentionEvery = 64

// checkRetention warns, once a topic, of events that the topic deletes as soon as it
// has them.
func (k *Kafka) checkRetention(l *limit, d *Delivery) {
	if l.retention == unlimited || d.Clock == record.SendTime {
		return
	}
	age := time.Since(d.Record.Timestamp)
	if age.Milliseconds() <= l.retention {
		return
	}
	warn := false
	k.learned.change(d.Topic, func(l *lesson) { warn, l.aged = !l.aged, true })
	if warn {
		k.log.Warn().Str("topic", d.Topic).Stringer("age", age.Round(time.Second)).Int64("retention_ms", l.retention).Stringer("position", d.Position).
			Msg("the topic deletes records that are as old as the events that are published now, so that consumers may never see them; raise its retention.ms, or set value.timestamp: now")
	}
}

// answer is what the brokers say of one topic.
type answer struct {
	limit limit
	err   error
}

// describe asks for the limits of topics, in one request. It does not use the admin
// client, which turns a missing right to one topic into an error of all of them. There are as many answers
// as topics, in their order.
func (k *Kafka) describe(topics []*topic) ([]answer, error) {
	ctx, cancel := context.WithTimeout(k.ctx, describeTimeout)
	defer cancel()
	req := kmsg.NewPtrDescribeConfigsRequest()
	answers := make([]answer, len(topics))
	byName := make(map[string]*answer, len(topics))
	for i, t := range topics {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, t.name, limitKeys
		req.Resources = append(req.Resources, r)
		answers[i].err = errNoAnswer
		byName[t.name] = &answers[i]
	}
	resp, err := req.RequestWith(ctx, k.client)
	if err != nil {
		return nil, err
	}
	for _, r := range resp.Resources {
		a := byName[r.ResourceName]
		if a == nil {
			continue
		}
		if a.err = kerr.ErrorForCode(r.ErrorCode); a.err == nil {
			a.limit, a.err = limitOf(r)
		}
	}
	return answers, nil
}

// errNotSaid is the answer of a broker that does not show the limit, errNoAnswer that of
// one that does not name the topic.
var (
	errNotSaid  = errors.New("the broker does not say what the topic takes")
	errNoAnswer = errors.New("the broker did not say")
)

// limitKeys are the keys of a topic's configuration that limitOf reads.
var limitKeys = []string{"max.message.bytes", "message.timestamp.before.max.ms", "message.timestamp.after.max.ms", "message.timestamp.type", "cleanup.policy", "retention.ms"}

// limitOf reads a topic's configuration.
func limitOf(config kmsg.DescribeConfigsResponseResource) (limit, error) {
	l := unknownLimit
	l.bytes, l.source = 0, told
	brokersTime, deletes := false, false
	for _, c := range config.Configs {
		if c.Value == nil {
			continue
		}
		var err error
		switch value := *c.Value; c.Name {
		case "max.message.bytes":
			l.bytes, err = strconv.Atoi(value)
			l.bytes = min(max(l.bytes, minBatchLimit), maxBatchLimit)
		case "message.timestamp.before.max.ms":
			l.before, err = strconv.ParseInt(value, 10, 64)
		case "message.timestamp.after.max.ms":
			l.after, err = strconv.ParseInt(value, 10, 64)
		case "message.timestamp.type":
			brokersTime = value == "LogAppendTime"
		case "cleanup.policy":
			deletes = strings.Contains(value, "delete")
		case "retention.ms":
			l.retention, err = strconv.ParseInt(value, 10, 64)
		}
		if err != nil {
			return l, fmt.Errorf("%s of topic %q: %w", c.Name, config.ResourceName, err)
		}
	}
	if l.bytes == 0 {
		return l, errNotSaid
	}
	if brokersTime {
		l.before, l.after = unlimited, unlimited
	}
	if brokersTime || !deletes || l.retention < 0 {
		l.retention = unlimited
	}
	return l, nil
}

// batchLimit tells the client how large a batch may be. The client asks when it
// first meets a partition, from its own goroutine.
func (k *Kafka) batchLimit(name string) int32 {
	k.mu.Lock()
	t := k.topics[name]
	k.mu.Unlock()
	if t == nil {
		return defaultBatchLimit
	}
	n := t.clientLimit.Load()
	t.given.Store(n)
	return n
}

// wireSize is the most that a record can take on the wire, uncompressed and
// alone in its batch (KIP-98's record format, with each varint at its longest).
func wireSize(r *kgo.Record) int {
	const batchHeader, recordOverhead, varint = 61, 21 + 5*3, 5
	n := batchHeader + recordOverhead + len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += 2*varint + len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// compressed tells whether a record alone in its batch fits into so many bytes when it
// is compressed. The broker measures what it gets.
func (k *Kafka) compressed(d *Delivery, limit int) (fits bool, err error) {
	if k.codec == nil {
		return false, nil
	}
	err = k.Await(func() {
		r := &d.Record.Record
		var encoded, out bytes.Buffer
		encoded.Grow(d.size)
		encoded.Write(r.Key)
		encoded.Write(r.Value)
		for _, h := range r.Headers {
			encoded.WriteString(h.Key)
			encoded.Write(h.Value)
		}
		small, codec := k.codec.Compress(&out, encoded.Bytes())
		rest := d.size - encoded.Len() // is not compressed here, and small
		fits = codec != kgo.CodecError && codec != kgo.CodecNone && len(small)+rest <= limit
	})
	return fits, err
}
