package records

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Metadata asks the brokers for a topic, and for what the client may do with it; it makes
// none. The error is that of the question: what they say of the topic is its ErrorCode.
func Metadata(ctx context.Context, client *kgo.Client, topic string) (none kmsg.MetadataResponseTopic, err error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	req.IncludeTopicAuthorizedOperations = true
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return none, err
	}
	if len(resp.Topics) != 1 {
		return none, fmt.Errorf("%d answers instead of one", len(resp.Topics))
	}
	return resp.Topics[0], nil
}

// Fetch is a question for records, in no group and no session.
type Fetch struct {
	Client    *kgo.Client
	Committed bool          // only committed records
	Bytes     int32         // of the answer; a batch that is larger comes whole
	Wait      time.Duration // for what is not there yet
}

// Once asks the leader of a partition for the records from an offset on, and returns
// where to go on. The topic is what Metadata returned; after a retriable error it may be
// out of date.
func (f Fetch) Once(ctx context.Context, topic kmsg.MetadataResponseTopic, partition int32, at int64) (none kgo.FetchPartition, next int64, err error) {
	leader, err := leaderOf(topic, partition)
	if err != nil {
		return none, at, err
	}
	o := kgo.ProcessFetchPartitionOpts{Offset: at, Topic: *topic.Topic, Partition: partition, IsolationLevel: kgo.ReadUncommitted()}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = int32(f.Wait.Milliseconds())
	req.MinBytes, req.MaxBytes = 1, f.Bytes
	if f.Committed {
		req.IsolationLevel, o.IsolationLevel = 1, kgo.ReadCommitted()
	}
	req.SessionEpoch = -1 // no session
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = o.Topic, topic.TopicID
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, at, f.Bytes
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	answer, err := f.Client.Broker(int(leader)).RetriableRequest(ctx, req)
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
	got, next := kgo.ProcessFetchPartition(o, &resp.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
	return got, next, got.Err
}

func leaderOf(topic kmsg.MetadataResponseTopic, partition int32) (int32, error) {
	for _, p := range topic.Partitions {
		if p.Partition == partition {
			return p.Leader, kerr.ErrorForCode(p.ErrorCode)
		}
	}
	return 0, kerr.UnknownTopicOrPartition
}
