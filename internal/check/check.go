// Package check proves a set-up without changing it: PostgreSQL, Kafka, the schema
// registry and the stored position, as far as a start will need them. It asks the same
// questions as a start, through the packages that start, and goes on after the first
// fault. It takes neither the slot nor the transactional id, and makes nothing.
package check

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"outboxd/internal/finding"
	"outboxd/internal/positions"
	"outboxd/internal/replication"
	"outboxd/internal/retention"
	"outboxd/offsets"
	"outboxd/sink"
)

// Options say what is checked: what a start would be given.
type Options struct {
	Source replication.Options
	Kafka  sink.Options
	// User is the principal's name in commands that grant a right, "" for none.
	User string
	// Topics are the topics that are known without a row, and Templates those that
	// depend on it.
	Topics, Templates []string
	// Groups are consumer groups whose lag is watched.
	Groups []string
	// ExactlyOnce, with its transactional id.
	ExactlyOnce     bool
	TransactionalID string
	// Positions is the topic of positions where they are kept there; nil: elsewhere.
	Positions      *positions.Store
	PositionsTopic string
	// DeadLetterTopic is where events are set aside, "": they are not.
	DeadLetterTopic string
	// File is the file of positions, "": elsewhere.
	File      string
	Elsewhere []offsets.Elsewhere
	Rewind    string // delivery.rewind for people, "" for none
	// Registry asks the schema registry; nil: there is none.
	Registry Registry
	// Traces asks the collector of spans; nil: there is none.
	Traces func(ctx context.Context) []finding.Finding
	// Retention is what removes rows of the outbox; nil: there is no table.
	Retention *retention.Options
	// Limit bounds each check; 0 is the default.
	Limit time.Duration
}

// Registry asks the schema registry whether it answers, and for the subjects of topics.
type Registry interface {
	Check(ctx context.Context, topics []string) []finding.Finding
}

// defaultLimit bounds a check that has no limit of its own.
const defaultLimit = 10 * time.Second

// Group is what is said of one party.
type Group struct {
	Name     string            `json:"name"`
	Findings []finding.Finding `json:"checks"`
}

// Promise is what a set-up can promise, or not.
type Promise struct {
	Name string `json:"promise"`
	// Known is false where what it depends on could not be looked at.
	Known bool   `json:"known"`
	Holds bool   `json:"holds"`
	Text  string `json:"text"`
	// Change is what would change it.
	Change string `json:"change,omitempty"`
}

// Report is the result of a check.
type Report struct {
	Groups   []Group       `json:"groups"`
	Promises []Promise     `json:"promises"`
	Result   finding.Level `json:"result"` // the worst
}

// Run checks everything. PostgreSQL, Kafka and the registry are asked at the same
// time, so that a silent one holds up nobody.
func Run(ctx context.Context, o Options) Report {
	if o.Limit == 0 {
		o.Limit = defaultLimit
	}
	survey := replication.NewSurvey(o.Source)
	defer survey.Close()
	kafka := &cluster{o: o}
	defer kafka.close()
	groups := []*group{{name: "PostgreSQL", limit: o.Limit}, {name: "Kafka", limit: o.Limit}, {name: "Registry", limit: o.Limit}, {name: "Position", limit: o.Limit}, {name: "Traces", limit: o.Limit}}
	postgres, brokers, registry, position, traces := groups[0], groups[1], groups[2], groups[3], groups[4]
	var together sync.WaitGroup
	together.Go(func() {
		for _, step := range survey.Steps() {
			postgres.step(ctx, step.Subject, step.Limit, step.Look)
		}
		if r := o.Retention; r != nil && r.Mode != retention.Off {
			postgres.step(ctx, "retention", 0, func(ctx context.Context) []finding.Finding { return retention.Findings(ctx, *r) })
		}
	})
	together.Go(func() { kafka.check(ctx, brokers) })
	if o.Registry != nil {
		together.Go(func() {
			registry.step(ctx, "registry", 0, func(ctx context.Context) []finding.Finding { return o.Registry.Check(ctx, o.Topics) })
		})
	}
	if o.Traces != nil {
		together.Go(func() { traces.step(ctx, "trace collector", 0, o.Traces) })
	}
	together.Wait()
	s := &store{o: o, survey: survey}
	// It waits for both: see positions' own limit of a load.
	position.step(ctx, "stored position", 4*o.Limit, s.check)
	var r Report
	for _, g := range groups {
		if len(g.found) == 0 {
			continue
		}
		r.Groups = append(r.Groups, Group{g.name, g.found})
		for _, f := range g.found {
			r.Result = max(r.Result, f.Level)
		}
	}
	asked, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	r.Promises = promises(o, survey.Facts(asked), kafka)
	return r
}

// group gathers the findings of one party. It belongs to one goroutine.
type group struct {
	name  string
	limit time.Duration
	found []finding.Finding
}

// step looks at one thing, within a limit, and goes on whatever happens in it. A look
// that does not heed its context is left behind; nothing that it finds later counts.
func (g *group) step(ctx context.Context, subject string, limit time.Duration, look func(context.Context) []finding.Finding) {
	if limit == 0 {
		limit = g.limit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan []finding.Finding, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				done <- []finding.Finding{{Level: finding.Fail, Subject: subject, Text: fmt.Sprintf("the check itself failed: %v", r),
					Fix: "report this as a fault of outboxd, with: " + string(debug.Stack())}}
			}
		}()
		done <- look(ctx)
	}()
	var found []finding.Finding
	select {
	case found = <-done:
	case <-ctx.Done():
		// The look usually says better what did not answer.
		select {
		case found = <-done:
		case <-time.After(time.Second):
			found = []finding.Finding{{Level: finding.Fail, Subject: subject, Text: fmt.Sprintf("no answer within %s", limit),
				Fix: "see whether the server is stopped, or a firewall drops what is sent to it"}}
		}
	}
	if len(found) == 0 {
		found = []finding.Finding{finding.Unchecked(subject, "nothing was looked at")}
	}
	g.found = append(g.found, found...)
}

// Failed reports whether a start would fail, or deliver nothing.
func (r Report) Failed() bool { return r.Result == finding.Fail }

// refused turns a position that cannot be trusted into a finding.
func refused(subject string, err *offsets.RefusedError) finding.Finding {
	return finding.Finding{Level: finding.Fail, Subject: subject, Text: fmt.Sprintf("position refused: %v: %s", err.Reason, err.Detail), Fix: err.Hint}
}
