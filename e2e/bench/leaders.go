package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// leadersPartitions is how many partitions the scenario's topic has: a third of them loses
// its leader with a broker.
const leadersPartitions = 12

// phase is a time in which leaders change for one reason.
type phase struct {
	name     string
	from, to time.Time
	asked    asked
}

// outage is what a phase was for the partitions of a topic.
type outage struct {
	partitions int // that changed their leaders
	// longest is the longest time without delivery to one of them, and late the longest
	// from its new leader to the first delivery. Of that, client is the longest time in
	// which the new leader had no request for the partition: the rest is the cluster's.
	longest, late, client time.Duration
	others                time.Duration // the longest without delivery to one of the others
	asked                 asked
}

func (o outage) line(name string) string {
	return fmt.Sprintf("%s: %d partitions, %d ms without delivery, %d ms after the new leader, of them %d ms without a request; others %d ms; %d requests for metadata, %d connections refused",
		name, o.partitions, o.longest.Milliseconds(), o.late.Milliseconds(), o.client.Milliseconds(), o.others.Milliseconds(), o.asked.metadata, o.asked.refused)
}

// leaders measures the longest time without delivery while leaders change.
func leaders(ctx context.Context, b *bench, s scenario) error {
	b.printf("\n## %s\n\n", s.title)
	f, err := startFailing(ctx, 3)
	if err != nil {
		return err
	}
	defer f.close()
	contestants := s.who(b)
	var phases []phase
	results, err := inTurns(b, contestants, func(c contestant, _, _ int) ([]outage, string, error) {
		phases = nil
		run, records, err := b.steady(ctx, f, c, leadersPartitions, func(ctx context.Context, run *steadyRun) (err error) {
			phases, err = run.changeLeaders(ctx)
			return err
		})
		if err != nil {
			return nil, "", err
		}
		var all []outage
		line := ""
		for _, p := range phases {
			o := run.outage(p, records)
			all = append(all, o)
			line += "\n  " + o.line(p.name)
		}
		return all, line, nil
	})
	if err != nil {
		return err
	}
	b.printf("\n| contestant | what happened | without delivery, median (most) | after the new leader, median (most) | of that without a request to it, median (most) | other partitions (most) | metadata requests | connections refused |\n|---|---|---|---|---|---|---|---|\n")
	for i, c := range contestants {
		for p, phase := range phases {
			of := func(f func(outage) time.Duration) (values []time.Duration) {
				for _, r := range results[i] {
					values = append(values, f(r[p]))
				}
				return values
			}
			longest, late := of(func(o outage) time.Duration { return o.longest }), of(func(o outage) time.Duration { return o.late })
			client := of(func(o outage) time.Duration { return o.client })
			others := of(func(o outage) time.Duration { return o.others })
			var requests, refused []int64
			for _, r := range results[i] {
				requests, refused = append(requests, r[p].asked.metadata), append(refused, r[p].asked.refused)
			}
			b.printf("| %s | %s | %.0f ms (%.0f) | %.0f ms (%.0f) | %.0f ms (%.0f) | %.0f ms | %d | %d |\n", c.name, phase.name, ms(median(longest)), ms(slices.Max(longest)),
				ms(median(late)), ms(slices.Max(late)), ms(median(client)), ms(slices.Max(client)), ms(slices.Max(others)), median(requests), median(refused))
		}
	}
	return nil
}

// changeLeaders kills a broker, lets it come back and lead again, and moves leaders
// between brokers that are well.
func (s *steadyRun) changeLeaders(ctx context.Context) (phases []phase, err error) {
	during := func(name string, f func() error) error {
		p := phase{name: name, from: time.Now()}
		before := s.asked.count()
		if err := f(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		time.Sleep(3 * time.Second)
		p.to = time.Now()
		p.asked = s.asked.since(before)
		phases = append(phases, p)
		return nil
	}
	elect := func() error {
		all := make(kadm.TopicsSet)
		for i := range leadersPartitions {
			all.Add(s.topic, int32(i))
		}
		_, err := s.admin.ElectLeaders(ctx, kadm.ElectPreferredReplica, all)
		return err
	}
	const victim = 1
	if err := during("a broker killed", func() error {
		if err := s.Kill(victim); err != nil {
			return err
		}
		return s.until(ctx, func(p kadm.PartitionDetail) bool { return p.Leader >= 0 && p.Leader != s.NodeID(victim) })
	}); err != nil {
		return nil, err
	}
	if err := s.Start(ctx, victim); err != nil {
		return nil, err
	}
	if err := s.until(ctx, func(p kadm.PartitionDetail) bool { return len(p.ISR) == len(p.Replicas) }); err != nil {
		return nil, err
	}
	time.Sleep(time.Second)
	if err := during("it leads again", elect); err != nil {
		return nil, err
	}
	err = during("leaders moved", func() error {
		details, err := s.details(ctx)
		if err != nil {
			return err
		}
		var moves kadm.AlterPartitionAssignmentsReq
		for _, p := range details {
			if p.Leader == s.NodeID(victim) {
				moves.Assign(s.topic, p.Partition, append(slices.Clone(p.Replicas[1:]), p.Replicas[0]))
			}
		}
		if _, err := s.admin.AlterPartitionAssignments(ctx, moves); err != nil {
			return err
		}
		return elect()
	})
	return phases, err
}

// broker returns the index of a broker.
func (s *steadyRun) broker(node int32) int {
	for i := range s.relays {
		if s.NodeID(i) == node {
			return i
		}
	}
	panic(fmt.Sprintf("no broker %d", node))
}

func (s *steadyRun) details(ctx context.Context) ([]kadm.PartitionDetail, error) {
	topics, err := s.admin.ListTopics(ctx, s.topic)
	if err != nil {
		return nil, err
	}
	return topics[s.topic].Partitions.Sorted(), nil
}

// until waits for all partitions.
func (s *steadyRun) until(ctx context.Context, ready func(kadm.PartitionDetail) bool) error {
	for range 600 {
		if details, err := s.details(ctx); err == nil && len(details) > 0 && !slices.ContainsFunc(details, func(p kadm.PartitionDetail) bool { return !ready(p) }) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("topic %s is not ready after a minute", s.topic)
}

// outage looks at the records that were delivered in a phase, and the last ones before.
func (s *steadyRun) outage(p phase, records []appended) (o outage) {
	o.asked = p.asked
	elected := make(map[int32]led) // by partition, the last one in the phase
	for _, c := range s.changes {
		if c.leader >= 0 && c.at.After(p.from) && c.at.Before(p.to) {
			elected[c.partition] = c
		}
	}
	o.partitions = len(elected)
	last := make(map[int32]time.Time)
	for _, r := range records {
		if r.at.After(p.to) {
			break
		}
		before, some := last[r.partition]
		last[r.partition] = r.at
		if !some || r.at.Before(p.from) {
			continue
		}
		to, changed := elected[r.partition]
		if !changed {
			o.others = max(o.others, r.at.Sub(before))
			continue
		}
		o.longest = max(o.longest, r.at.Sub(before))
		if before.Before(to.at) && r.at.After(to.at) {
			o.late = max(o.late, r.at.Sub(to.at))
			o.client = max(o.client, s.waits.without(s.broker(to.leader), r.partition, to.at, r.at))
		}
	}
	return o
}
