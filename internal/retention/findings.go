package retention

import (
	"context"
	"fmt"

	"outboxd/internal/finding"
	"outboxd/internal/replication"
)

// Findings judges a set-up for a check, over a connection of its own.
func Findings(ctx context.Context, o Options) []finding.Finding {
	const subject = "retention"
	if o.Mode == Off {
		return nil
	}
	r := New(o)
	defer r.disconnect()
	if err := r.connect(ctx, nil); err != nil {
		what, fix := replication.Describe(err)
		return []finding.Finding{{Level: finding.Fail, Subject: subject, Text: what, Fix: fix}}
	}
	p, problems, err := r.judge(ctx)
	if err != nil {
		what, fix := replication.Describe(err)
		return []finding.Finding{{Level: finding.Warn, Subject: subject, Text: "not checked: " + what, Fix: fix}}
	}
	var found []finding.Finding
	for _, problem := range problems {
		f := finding.Finding{Level: finding.Fail, Subject: subject, Text: problem.what, Fix: problem.fix, SQL: problem.sql}
		if problem.harmless || problem.passes {
			f.Level = finding.Warn // events are delivered all the same
		}
		found = append(found, f)
	}
	if found == nil {
		found = []finding.Finding{finding.Ok(subject, o.describe(p))}
	}
	return found
}

// describe says what is removed, and by which time.
func (o Options) describe(p *plan) string {
	keep := "as soon as Kafka has acknowledged them"
	if o.Keep > 0 {
		keep = fmt.Sprintf("once Kafka has acknowledged them and they are %s old", o.Keep)
	}
	by := ", by the commit time"
	switch {
	case o.Mode == DropPartitions:
		return fmt.Sprintf("partitions of %s are dropped %s as a whole, by %s", p.root.name, keep, p.scheme.column)
	case o.Timestamp != "":
		by = ", by column " + replication.QuoteIdent(o.Timestamp)
	case o.Keep == 0:
		by = ""
	}
	if o.Mode == Archive {
		return fmt.Sprintf("rows of %s move to %s %s%s", p.root.name, p.archive, keep, by)
	}
	return fmt.Sprintf("rows of %s are deleted %s%s", p.root.name, keep, by)
}
