package simulate

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// reader reads what the topics hold, without a client library in between: it has to be
// quick, and to know that it has come to the end.
type reader struct {
	k         *kafka
	committed bool // nothing of transactions that are open or aborted
	conns     map[int32]net.Conn
	next      map[partition]int64
	corr      int32
}

type partition struct {
	topic string
	n     int32
}

func newReader(k *kafka, committed bool) *reader {
	return &reader{k: k, committed: committed, conns: make(map[int32]net.Conn), next: make(map[partition]int64)}
}

// read gives all that is new in a topic to add, in the order of each partition.
func (r *reader) read(topic string, add func(*kgo.Record)) error {
	for _, info := range r.k.cluster.PartitionInfos(topic) {
		end := info.HighWatermark
		if r.committed {
			end = info.LastStableOffset
		}
		p := partition{topic, info.Partition}
		for r.next[p] < end {
			if err := r.fetch(p, info.Leader, add); err != nil {
				return fmt.Errorf("read %s/%d: %w", topic, p.n, err)
			}
		}
	}
	return nil
}

const fetchVersion = 12 // the last one with the topics' names

func (r *reader) fetch(p partition, leader int32, add func(*kgo.Record)) error {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.MaxBytes, req.SessionEpoch = fetchVersion, -1, 64<<20, -1
	isolation := kgo.ReadUncommitted()
	if r.committed {
		req.IsolationLevel, isolation = 1, kgo.ReadCommitted()
	}
	t := kmsg.NewFetchRequestTopic()
	t.Topic = p.topic
	tp := kmsg.NewFetchRequestTopicPartition()
	tp.Partition, tp.FetchOffset, tp.PartitionMaxBytes = p.n, r.next[p], 64<<20
	t.Partitions = append(t.Partitions, tp)
	req.Topics = append(req.Topics, t)
	resp := kmsg.NewPtrFetchResponse()
	if err := r.ask(leader, req, resp); err != nil {
		return err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return kerr.UnknownTopicOrPartition
	}
	fetched, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Offset: r.next[p], IsolationLevel: isolation, Topic: p.topic, Partition: p.n,
	}, &resp.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
	if fetched.Err != nil {
		return fetched.Err
	}
	for _, record := range fetched.Records {
		add(record)
	}
	if next <= r.next[p] {
		return fmt.Errorf("nothing comes at offset %d", next)
	}
	r.next[p] = next
	return nil
}

// ask sends a request and reads the answer to it.
func (r *reader) ask(node int32, req kmsg.Request, resp kmsg.Response) error {
	conn := r.conns[node]
	if conn == nil {
		var err error
		if conn, err = r.k.dial(context.Background(), nil, string(brokerAddress(int(node)))); err != nil {
			return err
		}
		r.conns[node] = conn
	}
	r.corr++
	if _, err := conn.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, r.corr)); err != nil {
		return err
	}
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(conn, body); err != nil {
		return err
	}
	resp.SetVersion(req.GetVersion())
	return resp.ReadFrom(body[5:]) // the number of the request, and no tags
}

func (r *reader) close() {
	for _, c := range r.conns {
		_ = c.Close()
	}
}
