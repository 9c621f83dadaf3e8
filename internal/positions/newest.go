package positions

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

// newest returns the newest committed record of the slot's key, nil when there
// is none. It reads to where the partition ended when it was called, and not
// only to what is stable: a transaction that is still open there holds up
// everything behind it for readers of committed records, also what others have
// committed since. It is waited for.
//
// The consumer of the client's library is of no use here: at the end of the
// partition there are often markers and aborted records, which it passes over
// without a word, so that one cannot know that the end is reached.
func (s *Store) newest(ctx context.Context) (*kgo.Record, error) {
	end, err := s.listOffset(ctx, -1)
	if err != nil {
		return nil, err
	}
	at, err := s.listOffset(ctx, -2)
	if err != nil {
		return nil, err
	}
	var found *kgo.Record
	for at < end {
		p, next, err := s.fetch(ctx, at)
		switch {
		case errors.Is(err, kerr.OffsetOutOfRange):
			// The cleaner has moved the beginning.
			if at, err = s.listOffset(ctx, -2); err != nil {
				return nil, err
			}
			continue
		case err != nil:
			return nil, err
		}
		for _, r := range p.Records {
			if string(r.Key) == s.o.Slot && r.Offset < end {
				found = r
			}
		}
		if next > at {
			at = next
			continue
		}
		if p.LastStableOffset >= end {
			return found, nil // what was behind has been compacted away
		}
		if err := pause(ctx); err != nil {
			return nil, fmt.Errorf("%w: an open transaction of another program holds up offset %d of %d", err, p.LastStableOffset, end)
		}
	}
	return found, nil
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(retryEvery):
		return nil
	}
}

// listOffset returns the partition's end (-1) or beginning (-2). The end includes
// what is not committed.
func (s *Store) listOffset(ctx context.Context, which int64) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = s.o.Topic
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Timestamp = which
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	for {
		offset, err := listOnce(ctx, s.client, req)
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
func (s *Store) fetch(ctx context.Context, at int64) (kgo.FetchPartition, int64, error) {
	meta := kmsg.NewPtrMetadataRequest()
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = &s.o.Topic
	meta.Topics = append(meta.Topics, mt)
	for {
		p, next, err := s.fetchOnce(ctx, meta, at)
		if err == nil || !kerr.IsRetriable(err) {
			return p, next, err
		}
		if pause(ctx) != nil {
			return p, next, err
		}
	}
}

func (s *Store) fetchOnce(ctx context.Context, meta *kmsg.MetadataRequest, at int64) (none kgo.FetchPartition, next int64, err error) {
	where, err := meta.RequestWith(ctx, s.client)
	if err != nil {
		return none, at, err
	}
	if len(where.Topics) != 1 || len(where.Topics[0].Partitions) != 1 {
		return none, at, kerr.UnknownTopicOrPartition
	}
	topic := where.Topics[0]
	if err := kerr.ErrorForCode(topic.ErrorCode); err != nil {
		return none, at, err
	}
	if err := kerr.ErrorForCode(topic.Partitions[0].ErrorCode); err != nil {
		return none, at, err
	}

	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = int32(fetchWait.Milliseconds())
	req.MinBytes = 1
	req.MaxBytes = 8 << 20
	req.IsolationLevel = 1 // read_committed
	req.SessionEpoch = -1  // no session
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = s.o.Topic, topic.TopicID
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.FetchOffset = at
	rp.PartitionMaxBytes = req.MaxBytes
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	answer, err := s.client.Broker(int(topic.Partitions[0].Leader)).RetriableRequest(ctx, req)
	if err != nil {
		return none, at, err
	}
	resp := answer.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return none, at, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return none, at, kerr.UnknownTopicOrPartition
	}
	p, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Offset: at, IsolationLevel: kgo.ReadCommitted(), Topic: s.o.Topic,
	}, &resp.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
	return p, next, p.Err
}
