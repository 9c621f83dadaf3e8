package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/testbed"
)

// steadyRate is the load beside which Kafka fails, in one-row transactions a second.
const steadyRate = 1000

// steadies returns the contestants that can run beside a load.
func (b *bench) steadies() []contestant {
	return b.kept(append(b.binaries(), contestant{"bare reader, eager", runBare("-deliver", "-eager"), startBare}))
}

// failing is a Kafka that a scenario has for itself, reached through relays that count
// requests.
type failing struct {
	*testbed.Kafka
	admin  *kadm.Client
	asked  questions
	waits  waits
	relays []net.Listener
}

// questions count what contestants ask of brokers that are away, or no longer lead.
type questions struct {
	metadata atomic.Int64 // requests
	refused  atomic.Int64 // connections
}

// asked is a count of them.
type asked struct{ metadata, refused int64 }

func (q *questions) count() asked { return asked{q.metadata.Load(), q.refused.Load()} }

// since returns what was asked after an earlier count.
func (q *questions) since(before asked) asked {
	return asked{q.metadata.Load() - before.metadata, q.refused.Load() - before.refused}
}

func startFailing(ctx context.Context, brokers int) (f *failing, err error) {
	f = new(failing)
	o := kafkaOptions()
	o.Brokers = brokers
	if brokers > 1 {
		o.JVM = nil // three of the usual size take too much memory
		// A follower that asks a new leader before that one knows that it leads waits for
		// this long, 1 s by default, and acks=all with it. What is measured is the client.
		o.Settings["replica.fetch.backoff.ms"] = "100"
	}
	for range brokers {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		f.relays = append(f.relays, l)
		o.Advertised = append(o.Advertised, l.Addr().String())
	}
	if f.Kafka, err = testbed.StartKafka(ctx, o); err != nil {
		return nil, errors.Join(err, f.close())
	}
	for i, l := range f.relays {
		go f.relay(l, i)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(f.InternalBrokers()...), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	f.admin = kadm.NewClient(client)
	return f, nil
}

func (f *failing) close() error {
	if f.admin != nil {
		f.admin.Close()
	}
	for _, l := range f.relays {
		l.Close()
	}
	if f.Kafka != nil {
		f.Kafka.Close()
	}
	return nil
}

// appended is a record, as the broker that took it has it.
type appended struct {
	partition int32
	at        time.Time // when it was written, by the broker's clock, to the millisecond
	committed time.Time // of its event
}

// led is a change of a partition's leader that was seen.
type led struct {
	at        time.Time
	partition int32
	leader    int32 // below 0: none, or nobody answers
}

// steadyRun is a contestant at work while Kafka fails.
type steadyRun struct {
	*failing
	topic   string
	mu      sync.Mutex
	changes []led
}

// steady runs a contestant beside a load to one topic while something happens to Kafka,
// and returns what was delivered, in the order of delivery.
func (b *bench) steady(ctx context.Context, f *failing, c contestant, partitions int, happen func(context.Context, *steadyRun) error) (run *steadyRun, records []appended, err error) {
	database, conn, err := b.outbox(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, trickle); err != nil {
		return nil, nil, err
	}
	t := target{database: database, slot: database, topic: database + ".placed", events: 1 << 62}
	for i := range f.relays {
		t.brokers = append(t.brokers, f.relays[i].Addr().String())
	}
	if _, err := conn.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", t.slot); err != nil {
		return nil, nil, err
	}
	defer dropSlots(context.WithoutCancel(ctx), conn, []string{t.slot})
	appendTime := "LogAppendTime"
	if _, err := f.admin.CreateTopic(ctx, int32(partitions), int16(len(f.relays)), map[string]*string{"message.timestamp.type": &appendTime}, t.topic); err != nil {
		return nil, nil, err
	}
	running, err := c.start(ctx, b, t)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if stopped := running.Stop(); err == nil {
			err = stopped
		}
	}()
	f.waits.forget()
	run = &steadyRun{failing: f, topic: t.topic}
	var beside sync.WaitGroup
	defer beside.Wait()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	beside.Go(func() { run.watchLeaders(watching) })
	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	wrote := make(chan error, 1)
	beside.Go(func() {
		w, err := pgx.Connect(ctx, b.postgres.DSN(database))
		if err == nil {
			_, err = w.Exec(writing, fmt.Sprintf("CALL trickle(%d, 1, 3600)", steadyRate))
			w.Close(context.WithoutCancel(ctx))
		}
		if writing.Err() != nil {
			err = nil
		}
		wrote <- err
	})
	time.Sleep(5 * time.Second) // it is at work
	if err = happen(ctx, run); err != nil {
		return nil, nil, err
	}
	stopWriting()
	if err = <-wrote; err != nil {
		return nil, nil, err
	}
	stop()
	records, err = b.delivered(ctx, f, conn, t.topic)
	return run, records, err
}

// delivered waits until every row has arrived, and returns the records.
func (b *bench) delivered(ctx context.Context, f *failing, conn *pgx.Conn, topic string) (records []appended, err error) {
	rows, err := conn.Query(ctx, "SELECT id, pg_xact_commit_timestamp(xmin) FROM outbox")
	if err != nil {
		return nil, err
	}
	committed := make(map[[16]byte]time.Time)
	var id pgtype.UUID
	var at time.Time
	if _, err := pgx.ForEachRow(rows, []any{&id, &at}, func() error {
		committed[id.Bytes] = at
		return nil
	}); err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(f.InternalBrokers()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute) // on a busy machine
	defer cancel()
	for len(committed) > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%d events did not arrive", len(committed))
		}
		fetches.EachRecord(func(r *kgo.Record) {
			for _, h := range r.Headers {
				if h.Key != "id" || id.Scan(string(h.Value)) != nil {
					continue
				}
				if at, first := committed[id.Bytes]; first {
					records = append(records, appended{r.Partition, r.Timestamp, at})
					delete(committed, id.Bytes)
				}
			}
		})
	}
	slices.SortFunc(records, func(a, b appended) int { return a.at.Compare(b.at) })
	return records, nil
}

// watchLeaders notes every change of a leader until ctx ends.
func (s *steadyRun) watchLeaders(ctx context.Context) {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.InternalBrokers()...), kgo.RequestRetries(0), kgo.DialTimeout(time.Second))
	if err != nil {
		return
	}
	defer client.Close()
	leaders := make(map[int32]int32)
	seeds := client.SeedBrokers()
	for n := 0; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		req := kmsg.NewPtrMetadataRequest()
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &s.topic
		req.Topics = append(req.Topics, t)
		asking, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		resp, err := seeds[n%len(seeds)].Request(asking, req)
		cancel()
		now := time.Now()
		s.mu.Lock()
		if err != nil {
			n++ // another one, or the only one again
			if len(seeds) == 1 {
				s.note(now, leaders, 0, -1)
			}
		} else {
			for _, topic := range resp.(*kmsg.MetadataResponse).Topics {
				for _, p := range topic.Partitions {
					s.note(now, leaders, p.Partition, p.Leader)
				}
			}
		}
		s.mu.Unlock()
	}
}

func (s *steadyRun) note(now time.Time, leaders map[int32]int32, partition, leader int32) {
	if last, known := leaders[partition]; !known || last != leader {
		leaders[partition] = leader
		if known {
			s.changes = append(s.changes, led{now, partition, leader})
		}
	}
}
