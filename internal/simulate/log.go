package simulate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

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
	answers   int64     // of the brokers, when quiet was asked last
	asked     time.Time // and when that was
}

type partition struct {
	topic string
	n     int32
}

func newReader(k *kafka, committed bool) *reader {
	return &reader{k: k, committed: committed, conns: make(map[int32]net.Conn), next: make(map[partition]int64)}
}

// unread is what a partition holds that was not read.
type unread struct {
	partition
	leader int32
	end    int64
}

// expect has the next look find whatever is new: a process that ended may have written
// what no broker could answer any more.
func (r *reader) expect() { r.asked = time.Time{} }

// quiet reports whether nothing can be new since the last time that it was asked: no
// broker has answered a process. That a transaction has timed out shows a moment later.
func (r *reader) quiet() bool {
	answers, now := r.k.answers.Load(), time.Now()
	if answers == r.answers && now.Sub(r.asked) < time.Second {
		return true
	}
	r.answers, r.asked = answers, now
	return false
}

// read gives all that is new in some topics to add, in the order of each partition.
func (r *reader) read(topics []string, add func(*kgo.Record)) error {
	var all []unread
	for _, topic := range topics {
		for _, info := range r.k.cluster.PartitionInfos(topic) {
			u := unread{partition{topic, info.Partition}, info.Leader, info.HighWatermark}
			if r.committed {
				u.end = info.LastStableOffset
			}
			all = append(all, u)
		}
	}
	for {
		all = slices.DeleteFunc(all, func(u unread) bool { return r.next[u.partition] >= u.end })
		if len(all) == 0 {
			return nil
		}
		leader := all[0].leader
		if err := r.fetch(leader, slices.Collect(func(yield func(partition) bool) {
			for _, u := range all {
				if u.leader == leader && !yield(u.partition) {
					return
				}
			}
		}), add); err != nil {
			return fmt.Errorf("read %v: %w", all, err)
		}
	}
}

const fetchVersion = 12 // the last one with the topics' names

// fetch reads something of one partition at least.
func (r *reader) fetch(leader int32, from []partition, add func(*kgo.Record)) error {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.MaxBytes, req.SessionEpoch = fetchVersion, -1, 64<<20, -1
	isolation := kgo.ReadUncommitted()
	if r.committed {
		req.IsolationLevel, isolation = 1, kgo.ReadCommitted()
	}
	for _, p := range from {
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != p.topic {
			t := kmsg.NewFetchRequestTopic()
			t.Topic = p.topic
			req.Topics = append(req.Topics, t)
		}
		tp := kmsg.NewFetchRequestTopicPartition()
		tp.Partition, tp.FetchOffset, tp.PartitionMaxBytes = p.n, r.next[p], 64<<20
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, tp)
	}
	resp := kmsg.NewPtrFetchResponse()
	if err := r.ask(leader, req, resp); err != nil {
		return err
	}
	came := false
	for i := range resp.Topics {
		t := &resp.Topics[i]
		for j := range t.Partitions {
			p := partition{t.Topic, t.Partitions[j].Partition}
			fetched, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
				Offset: r.next[p], IsolationLevel: isolation, Topic: p.topic, Partition: p.n,
			}, &t.Partitions[j], kgo.DefaultDecompressor(), nil)
			if fetched.Err != nil {
				return fetched.Err
			}
			for _, record := range fetched.Records {
				add(record)
			}
			came = came || next > r.next[p]
			r.next[p] = next
		}
	}
	if !came {
		return errors.New("nothing comes")
	}
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
