package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/records"
	"outboxd/internal/remedy"
)

// cluster reads partitions from one offset to another, and leaves no trace: it is in
// no group. It is used by one goroutine.
//
// The consumer of the client's library is of no use here: at the end of a partition
// there are often markers and aborted records, which it passes over without a word, so
// that one cannot know that the end is reached.
type cluster struct {
	client    *kgo.Client
	admin     *kadm.Client
	committed bool // only committed records
	where     map[string]kmsg.MetadataResponseTopic
}

func newCluster(opts []kgo.Opt, committed bool) (*cluster, error) {
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("configure Kafka client: %w", err)
	}
	return &cluster{client, kadm.NewClient(client), committed, make(map[string]kmsg.MetadataResponseTopic)}, nil
}

func (c *cluster) close() { c.client.Close() }

// topic is what is known of a topic.
type topic struct {
	name   string
	exists bool
	// parts are its partitions, by their numbers.
	parts []extent
	// compacted says that newer records replace older ones.
	compacted bool
	// appendTime says that records carry the time at which the broker took them.
	appendTime bool
	// oldest is the time of its oldest records, of the partition where they are
	// youngest; Unix milliseconds, 0: not known.
	oldest int64
}

// extent is what there is of a partition: the offsets of its first record and behind
// its last one, and where reading begins.
type extent struct{ first, end, from int64 }

// trimmed reports whether records that would be read were removed from the beginning.
func (p extent) trimmed() bool { return p.first > 0 && p.from == p.first }

func (t *topic) trimmed() bool { return slices.ContainsFunc(t.parts, extent.trimmed) }

// askFor bounds how long brokers that do not answer are asked.
const askFor = 30 * time.Second

// look finds out what there is of the topics now. since is when the reading begins;
// zero: at the beginning.
func (c *cluster) look(ctx context.Context, names []string, since time.Time) (map[string]*topic, error) {
	topics := make(map[string]*topic)
	if len(names) == 0 {
		return topics, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	failed := func(err error) (map[string]*topic, error) {
		return nil, fmt.Errorf("ask the brokers for topics: %w%s", err, remedy.Kafka(err))
	}
	// The ends come first: what is not there by then is not looked for.
	list := c.admin.ListEndOffsets
	if c.committed {
		list = c.admin.ListCommittedOffsets
	}
	ends, err := list(ctx, names...)
	if err != nil {
		return failed(err)
	}
	firsts, err := c.admin.ListStartOffsets(ctx, names...)
	if err != nil {
		return failed(err)
	}
	var from kadm.ListedOffsets
	if !since.IsZero() {
		if from, err = c.admin.ListOffsetsAfterMilli(ctx, since.UnixMilli(), names...); err != nil {
			return failed(err)
		}
	}
	for _, name := range names {
		t := &topic{name: name}
		topics[name] = t
		for partition, end := range ends[name] {
			if errors.Is(end.Err, kerr.UnknownTopicOrPartition) {
				continue
			}
			first := firsts[name][partition]
			if err := errors.Join(end.Err, first.Err); err != nil {
				return failed(fmt.Errorf("topic %q, partition %d: %w", name, partition, err))
			}
			t.exists = true
			for len(t.parts) <= int(partition) {
				t.parts = append(t.parts, extent{})
			}
			p := extent{first.Offset, end.Offset, first.Offset}
			if at, ok := from.Lookup(name, partition); ok && at.Err == nil {
				p.from = min(max(at.Offset, p.first), p.end)
			}
			t.parts[partition] = p
		}
	}
	return topics, c.configs(ctx, names, topics)
}

// configs reads which topics are compacted. Who may not ask does not know, and takes
// them for topics that are not.
func (c *cluster) configs(ctx context.Context, names []string, topics map[string]*topic) error {
	configs, err := c.admin.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		var denied *kadm.AuthError
		if errors.As(err, &denied) {
			return nil
		}
		return fmt.Errorf("describe topics: %w", err)
	}
	for _, t := range configs {
		if t.Err != nil || topics[t.Name] == nil {
			continue
		}
		for _, config := range t.Configs {
			switch value := config.MaybeValue(); config.Key {
			case "cleanup.policy":
				topics[t.Name].compacted = value == "compact" || value == "compact,delete" || value == "delete,compact"
			case "message.timestamp.type":
				topics[t.Name].appendTime = value == "LogAppendTime"
			}
		}
	}
	return nil
}

// read calls visit for the records of a partition with offsets from from to before end.
func (c *cluster) read(ctx context.Context, name string, partition int32, from, end int64, visit func(*kgo.Record) error) error {
	for from < end {
		p, next, err := c.fetch(ctx, name, partition, from, end)
		switch {
		case errors.Is(err, kerr.OffsetOutOfRange):
			// Retention has moved the beginning.
			firsts, err := c.admin.ListStartOffsets(ctx, name)
			if err != nil {
				return err
			}
			first, ok := firsts.Lookup(name, partition)
			if !ok || first.Err != nil || first.Offset <= from {
				return fmt.Errorf("read topic %q, partition %d: offset %d is out of range: the topic was recreated or lost records meanwhile", name, partition, from)
			}
			from = first.Offset
			continue
		case err != nil:
			return fmt.Errorf("read topic %q, partition %d: %w%s", name, partition, err, remedy.Kafka(err))
		}
		for _, r := range p.Records {
			if r.Offset >= end {
				break
			}
			if err := visit(r); err != nil {
				return err
			}
		}
		if next <= from && c.stable(p) >= end {
			return nil // what was behind has been compacted away
		}
		if next <= from {
			return fmt.Errorf("read topic %q, partition %d: the broker has nothing at offset %d, and should up to %d", name, partition, from, end)
		}
		from = next
	}
	return nil
}

const (
	// fetchBytes is how much is asked for at once. A batch that is larger comes whole. It
	// bounds the memory of a comparison: records that compress to a tenth, with what the
	// client keeps of each, took 240 MiB with 4 MiB.
	fetchBytes = 1 << 20
	fetchWait  = 500 * time.Millisecond
	// retryEvery is the pause after an answer that will be another soon, and retryFor
	// how long it is waited for.
	retryEvery = 100 * time.Millisecond
	retryFor   = time.Minute
)

// stable is the offset behind the last record that may be read.
func (c *cluster) stable(p kgo.FetchPartition) int64 {
	if c.committed {
		return p.LastStableOffset
	}
	return p.HighWatermark
}

// fetch reads records from an offset on, and returns where to go on.
func (c *cluster) fetch(ctx context.Context, name string, partition int32, at, end int64) (kgo.FetchPartition, int64, error) {
	for begun := time.Now(); ; {
		p, next, err := c.fetchOnce(ctx, name, partition, at)
		if err == nil && (next > at || c.stable(p) >= end) || err != nil && !kerr.IsRetriable(err) || time.Since(begun) > retryFor {
			return p, next, err
		}
		delete(c.where, name)
		select {
		case <-ctx.Done():
			return p, next, context.Cause(ctx)
		case <-time.After(retryEvery):
		}
	}
}

func (c *cluster) fetchOnce(ctx context.Context, name string, partition int32, at int64) (kgo.FetchPartition, int64, error) {
	t, known := c.where[name]
	if !known {
		var err error
		if t, err = records.Metadata(ctx, c.client, name); err == nil {
			err = kerr.ErrorForCode(t.ErrorCode)
		}
		if err != nil {
			return kgo.FetchPartition{}, at, err
		}
		c.where[name] = t
	}
	return records.Fetch{Client: c.client, Committed: c.committed, Bytes: fetchBytes, Wait: fetchWait}.Once(ctx, t, partition, at)
}
