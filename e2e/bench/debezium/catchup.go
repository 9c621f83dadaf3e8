package debezium

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// sampleEvery is how often a drain's progress is read from the brokers.
const sampleEvery = 25 * time.Millisecond

// Result is what draining one backlog took. Times that begin with the first
// record know it to within 25 ms, to Debezium's advantage.
type Result struct {
	Events int64 // that arrived in Kafka; more than asked for if some did twice

	StartUp time.Duration // from the start of the process to the connector's creation
	First   time.Duration // from there to the first record in Kafka
	Drain   time.Duration // from the first record to the last

	Rate       float64 // events a second from the first record to the last
	SecondHalf float64 // events a second over the second half of the events, warm

	CPU           float64 // processor seconds of the worker up to the last record
	StartUpCPU    float64 // of which it had used before the connector was created
	CPUPerMillion float64 // CPU without StartUpCPU, for a million events

	PeakRSS int64 // bytes

	Config map[string]string // the connector's configuration, without the password
}

// CatchUp starts a worker and measures how it drains a backlog: the number of
// events that were committed after the slot was made. Nobody else may write to
// topics with the prefix of o meanwhile. It closes the worker.
func CatchUp(ctx context.Context, o Options, events int64) (Result, error) {
	kafka, err := kgo.NewClient(kgo.SeedBrokers(o.Brokers...), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return Result{}, fmt.Errorf("measure Debezium: %w", err)
	}
	defer kafka.Close()
	full, _, err := o.withDefaults()
	if err != nil {
		return Result{}, fmt.Errorf("measure Debezium: %w", err)
	}
	counter := &counter{admin: kadm.NewClient(kafka), prefix: full.TopicPrefix}
	before, err := counter.count(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("measure Debezium: %w", err)
	}

	begin := time.Now()
	c, err := startWorker(ctx, o)
	if err != nil {
		return Result{}, err
	}
	defer c.Close()
	r := Result{StartUp: time.Since(begin), Config: c.Config()}
	if r.StartUpCPU, err = c.CPUSeconds(); err != nil {
		return Result{}, err
	}
	created := time.Now()
	if err := c.create(ctx); err != nil {
		return Result{}, err
	}
	progress, err := watch(ctx, c, func() (int64, error) {
		n, err := counter.count(ctx)
		return n - before, err
	}, events)
	if err != nil {
		return Result{}, fmt.Errorf("measure Debezium: %w", err)
	}

	if r.CPU, err = c.CPUSeconds(); err != nil {
		return Result{}, err
	}
	if r.PeakRSS, err = c.PeakRSS(); err != nil {
		return Result{}, err
	}
	if o.Drained != nil {
		o.Drained()
	}
	r.Events = progress.last().events
	r.CPUPerMillion = (r.CPU - r.StartUpCPU) / float64(r.Events) * 1e6
	r.First = progress[0].at.Sub(created)
	r.Drain = progress.last().at.Sub(progress[0].at)
	r.Rate = float64(r.Events) / r.Drain.Seconds()
	r.SecondHalf = progress.secondHalf()
	return r, nil
}

// sample is how many events had arrived at a time.
type sample struct {
	at     time.Time
	events int64
}

// progress are the samples of a drain, from the one that first saw an event to
// the one that saw all.
type progress []sample

func (p progress) last() sample { return p[len(p)-1] }

// secondHalf returns the rate over the second half of the events. The time at
// which half of them were there is interpolated.
func (p progress) secondHalf() float64 {
	end := p.last()
	half := float64(end.events) / 2
	for i := 1; i < len(p); i++ {
		if float64(p[i].events) < half {
			continue
		}
		a, b := p[i-1], p[i]
		share := max(0, (half-float64(a.events))/float64(b.events-a.events))
		middle := a.at.Add(time.Duration(share * float64(b.at.Sub(a.at))))
		return (float64(end.events) - half) / end.at.Sub(middle).Seconds()
	}
	return 0
}

// watch samples count until all events are there. A worker that ends or fails
// meanwhile is an error.
func watch(ctx context.Context, c *Connect, count func() (int64, error), events int64) (progress, error) {
	var p progress
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		got, err := count()
		if err != nil {
			return nil, err
		}
		if got > 0 {
			p = append(p, sample{time.Now(), got})
		}
		if got >= events && len(p) > 0 {
			return p, nil
		}
		if n%40 == 39 {
			if err := c.check(ctx); err != nil {
				return nil, fmt.Errorf("after %d of %d events: %w", got, events, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("after %d of %d events: %w\n%s", got, events, ctx.Err(), c.worker.LogTail())
		case <-tick.C:
		}
	}
}

// counter counts the records in the router's topics.
type counter struct {
	admin  *kadm.Client
	prefix string
}

func (c *counter) count(ctx context.Context) (int64, error) {
	// Topics appear as the router first writes to them, so they are listed anew.
	all, err := c.admin.ListTopics(ctx)
	if err != nil {
		return 0, fmt.Errorf("list topics: %w", err)
	}
	var topics []string
	for _, name := range all.Names() {
		if strings.HasPrefix(name, c.prefix) {
			topics = append(topics, name)
		}
	}
	if len(topics) == 0 {
		return 0, nil
	}
	ends, err := c.admin.ListEndOffsets(ctx, topics...)
	if err != nil {
		return 0, fmt.Errorf("read the topics' ends: %w", err)
	}
	var n int64
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err == nil { // a topic that is just being made has no leader yet
			n += o.Offset
		}
	})
	return n, nil
}
