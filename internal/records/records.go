// Package records reads what a Kafka topic holds, from the beginning to where it ends
// now, without a consumer group.
//
// The consumer of the client's library is of no use for that: at the end of a
// partition there are often markers and aborted records, which it passes over without
// a word, so that one cannot know that the end is reached.
package records

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fetchWait is how long a broker holds an answer back for what is not there yet.
const fetchWait = 100 * time.Millisecond

// retryEvery is the pause after an answer that will be another soon.
const retryEvery = 50 * time.Millisecond

// fetchBytes bounds one answer. A record may be larger: it comes alone.
const fetchBytes = 8 << 20

// Reader reads committed records of one topic. Any goroutine may use it.
type Reader struct {
	Client *kgo.Client
	Topic  string
}

// Partitions returns how many partitions the topic has.
func (r Reader) Partitions(ctx context.Context) (int32, error) {
	topic, err := r.metadata(ctx)
	return int32(len(topic.Partitions)), err
}

// Range returns where a partition begins, and where it ends with what is not committed
// yet.
func (r Reader) Range(ctx context.Context, partition int32) (begin, end int64, err error) {
	return r.ends(ctx, partition, readUncommitted)
}

// Stable is Range, and ends where the first transaction begins that is still open: Read
// waits for nobody up to there.
func (r Reader) Stable(ctx context.Context, partition int32) (begin, end int64, err error) {
	return r.ends(ctx, partition, readCommitted)
}

func (r Reader) ends(ctx context.Context, partition int32, isolation int8) (begin, end int64, err error) {
	if end, err = r.offset(ctx, partition, -1, isolation); err != nil {
		return 0, 0, err
	}
	begin, err = r.offset(ctx, partition, -2, isolation)
	return begin, end, err
}

// Isolation levels of the protocol.
const (
	readUncommitted int8 = iota
	readCommitted
)

// Read gives every committed record of a partition with an offset below end to add, in
// the order of their offsets, from the offset begin on. An error of add ends it.
//
// It reads to where the partition ended when Range was called, and not only to what is
// stable: a transaction that is still open there holds up everything behind it for
// readers of committed records, also what others have committed since. It is waited for.
func (r Reader) Read(ctx context.Context, partition int32, begin, end int64, add func(*kgo.Record) error) error {
	for at := begin; at < end; {
		p, next, err := r.fetch(ctx, partition, at)
		switch {
		case errors.Is(err, kerr.OffsetOutOfRange):
			// The cleaner has moved the beginning.
			if at, err = r.offset(ctx, partition, -2, readCommitted); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		for _, record := range p.Records {
			if record.Offset < end {
				if err := add(record); err != nil {
					return err
				}
			}
		}
		if next > at {
			at = next
			continue
		}
		if p.LastStableOffset >= end {
			return nil // what was behind has been compacted away
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("%w: an open transaction of another program holds up offset %d of %d", err, p.LastStableOffset, end)
		}
	}
	return nil
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(retryEvery):
		return nil
	}
}

// offset returns the partition's end (-1) or beginning (-2). The end includes what is
// not committed, unless the isolation level leaves it out.
func (r Reader) offset(ctx context.Context, partition int32, which int64, isolation int8) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, isolation
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = r.Topic
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp = partition, which
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	for {
		offset, err := listOnce(ctx, r.Client, req)
		if err == nil {
			return offset, nil
		}
		// A topic just made, or a leader just elected.
		if !kerr.IsRetriable(err) {
			return 0, err
		}
		if pause(ctx) != nil {
			return 0, err
		}
	}
}

func listOnce(ctx context.Context, client *kgo.Client, req *kmsg.ListOffsetsRequest) (int64, error) {
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return 0, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, errors.New("the brokers do not say where the partition ends")
	}
	answer := resp.Topics[0].Partitions[0]
	return answer.Offset, kerr.ErrorForCode(answer.ErrorCode)
}

// fetch reads committed records from an offset on, and returns where to go on.
func (r Reader) fetch(ctx context.Context, partition int32, at int64) (kgo.FetchPartition, int64, error) {
	for {
		p, next, err := r.fetchOnce(ctx, partition, at)
		if err == nil || !kerr.IsRetriable(err) {
			return p, next, err
		}
		if pause(ctx) != nil {
			return p, next, err
		}
	}
}

// metadata looks at the topic.
func (r Reader) metadata(ctx context.Context) (kmsg.MetadataResponseTopic, error) {
	topic, err := Metadata(ctx, r.Client, r.Topic)
	if err != nil {
		return topic, err
	}
	return topic, kerr.ErrorForCode(topic.ErrorCode)
}

func (r Reader) fetchOnce(ctx context.Context, partition int32, at int64) (kgo.FetchPartition, int64, error) {
	topic, err := r.metadata(ctx)
	if err != nil {
		return kgo.FetchPartition{}, at, err
	}
	return Fetch{Client: r.Client, Committed: true, Bytes: fetchBytes, Wait: fetchWait}.Once(ctx, topic, partition, at)
}
