package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"

	"outboxd/decoder"
	"outboxd/internal/config"
	"outboxd/internal/connector"
	"outboxd/internal/deadletter"
	"outboxd/internal/status"
)

// desk is one command at work on the dead letters.
type desk struct {
	flags     *letterFlags
	cfg       *config.Config
	log       zerolog.Logger
	topic     *deadletter.Topic
	selection deadletter.Selection
	out       io.Writer
	progress  *progress
}

// each gives the selected letters to f, with the progress on a terminal.
func (d *desk) each(ctx context.Context, f func(deadletter.Found) error) (deadletter.Summary, error) {
	return d.topic.Each(ctx, d.selection, func(done, of int64) { d.progress.say("read %d of %d records", done, of) }, f)
}

// page is how many lines of the list are laid out together.
const page = 200

func (d *desk) list(ctx context.Context) error {
	if d.flags.asJSON {
		_, err := d.printJSON(ctx, func(f deadletter.Found) (any, error) { return summaryOf(f), nil })
		return err
	}
	w := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	n := 0
	sum, err := d.each(ctx, func(f deadletter.Found) error {
		d.progress.end()
		if n == 0 {
			fmt.Fprintln(w, "POSITION\tSET ASIDE\tKIND\tTOPIC\tID\tTYPE\tAGGREGATE\tREASON")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Position, f.Time.Format(time.RFC3339), f.Kind, brief(f.Topic),
			brief(text(f.Event.ID)), brief(text(f.Event.Type)), brief(text(f.Event.AggregateID)), brief(f.Reason))
		if n++; n%page == 0 {
			return w.Flush()
		}
		return nil
	})
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(d.out, "%s in %s%s\n", count(int(sum.Letters), "unresolved dead letter"), d.topic.Subject(), notShown(sum))
	return err
}

// notShown says what of the topic is not shown.
func notShown(sum deadletter.Summary) string {
	var parts []string
	if sum.Others > 0 {
		parts = append(parts, count(int(sum.Others), "dead letter")+" of other slots")
	}
	if sum.Foreign > 0 {
		parts = append(parts, count(int(sum.Foreign), "record")+" of other programs")
	}
	if parts == nil {
		return ""
	}
	return "; not shown: " + strings.Join(parts, ", ")
}

// shown is one dead letter as JSON.
type shown struct {
	Position      string    `json:"position"`
	Kind          string    `json:"kind"`
	Reason        string    `json:"reason"`
	Topic         string    `json:"topic"`
	Time          time.Time `json:"time"`
	CommittedAt   time.Time `json:"committed_at"`
	ID            *string   `json:"id"`
	Type          *string   `json:"type"`
	AggregateType *string   `json:"aggregate_type"`
	AggregateID   *string   `json:"aggregate_id"`
	Resolved      string    `json:"resolved,omitempty"`
	Partition     int32     `json:"partition"`
	Offset        int64     `json:"offset"`
	Truncated     bool      `json:"truncated,omitempty"`
	// Of show only.
	Key     *string           `json:"key,omitempty"`
	Row     map[string]any    `json:"row,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	// Of retry and discard only.
	Outcome string `json:"outcome,omitempty"`
	Error   string `json:"error,omitempty"`
}

func summaryOf(f deadletter.Found) *shown {
	return &shown{
		Position: f.Position.String(), Kind: string(f.Kind), Reason: f.Reason, Topic: f.Topic, Time: f.Time, CommittedAt: f.Event.CommittedAt,
		ID: f.Event.ID, Type: f.Event.Type, AggregateType: f.Event.AggregateType, AggregateID: f.Event.AggregateID,
		Resolved: f.Resolved, Partition: f.Partition, Offset: f.Offset, Truncated: len(f.Truncated.Columns) > 0,
	}
}

// printJSON prints an array with what one returns of each letter.
func (d *desk) printJSON(ctx context.Context, one func(deadletter.Found) (any, error)) (sum deadletter.Summary, err error) {
	separator := "["
	sum, err = d.each(ctx, func(f deadletter.Found) error {
		v, err := one(f)
		if err != nil {
			return err
		}
		line, err := marshal(v)
		if err != nil {
			return err
		}
		d.progress.end()
		_, err = fmt.Fprintf(d.out, "%s\n%s", separator, line)
		separator = ","
		return err
	})
	if separator == "[" && err == nil {
		_, err = fmt.Fprintln(d.out, "[]")
	} else if separator == "," {
		_, printErr := fmt.Fprintln(d.out, "\n]")
		err = errors.Join(err, printErr)
	}
	return sum, err
}

func marshal(v any) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

func (d *desk) show(ctx context.Context) error {
	d.selection.Resolved = true
	var found *deadletter.Found
	if _, err := d.each(ctx, func(f deadletter.Found) error { found = &f; return nil }); err != nil {
		return err
	}
	d.progress.end()
	if found == nil {
		return fmt.Errorf("%s has no dead letter of slot %q at position %s; see `outboxd dead-letters list`", d.topic.Subject(), d.cfg.Postgres.Slot, d.selection.Positions[0])
	}
	s := summaryOf(*found)
	s.Row, s.Headers = make(map[string]any), make(map[string]string)
	if found.Key != nil {
		key := string(found.Key)
		s.Key = &key
	}
	for i, c := range found.Event.Columns {
		if s.Row[c.Name] = any(string(found.Values[i])); found.Values[i] == nil {
			s.Row[c.Name] = nil
		}
	}
	for _, h := range found.Headers {
		s.Headers[h.Key] = string(h.Value)
	}
	if d.flags.asJSON {
		line, err := marshal(s)
		if err == nil {
			_, err = fmt.Fprintln(d.out, line)
		}
		return err
	}
	return d.describe(*found)
}

// describe prints a dead letter for people.
func (d *desk) describe(f deadletter.Found) error {
	w := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	line := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, value) }
	line("position", f.Position.String())
	line("kind", string(f.Kind))
	line("reason", brief(f.Reason))
	line("topic", brief(f.Topic))
	line("set aside", f.Time.Format(time.RFC3339Nano))
	line("committed", f.Event.CommittedAt.Format(time.RFC3339Nano))
	if f.Resolved != "" {
		line("resolved", f.Resolved)
	}
	if f.Key != nil {
		line("key", brief(string(f.Key)))
	}
	line("kept at", fmt.Sprintf("%s, partition %d, offset %d", d.topic.Subject(), f.Partition, f.Offset))
	for i, c := range f.Event.Columns {
		value := "NULL"
		if v := f.Values[i]; v != nil {
			value = printable(string(v))
		}
		if was := f.Truncated.Columns[c.Name]; was > 0 {
			value += fmt.Sprintf(" … (cut: it had %d bytes)", was)
		}
		line("column "+brief(c.Name), value)
	}
	for _, h := range f.Headers {
		line("header "+brief(h.Key), brief(string(h.Value)))
	}
	return w.Flush()
}

// resolve retries or discards.
func (d *desk) resolve(ctx context.Context, what string) error {
	work, done := d.discard, "discarded"
	if what == deadletter.Retried {
		r, err := d.retrier()
		if err != nil {
			return err
		}
		defer r.Close()
		work, done = func(ctx context.Context, f deadletter.Found) (string, error) { return r.Retry(ctx, f.Letter) }, "retried"
	}
	if d.flags.dryRun {
		done = "would be " + done
	}
	var resolved, left int
	one := func(f deadletter.Found) (*shown, error) {
		s := summaryOf(f)
		var err error
		s.Outcome, err = work(ctx, f)
		switch {
		case err == nil:
			resolved++
		case errors.Is(err, deadletter.ErrStillPoison):
			left++
			s.Outcome, s.Error = "failed", oneLine(err)
		default:
			return nil, fmt.Errorf("event id %s at position %s: %w; %s before it, run the command again for the rest",
				decoder.Excerpt(text(f.Event.ID)), f.Position, err, count(resolved, done+" event"))
		}
		d.progress.say("%d %s", resolved, done)
		return s, nil
	}
	var err error
	if d.flags.asJSON {
		_, err = d.printJSON(ctx, func(f deadletter.Found) (any, error) { return one(f) })
	} else {
		_, err = d.each(ctx, func(f deadletter.Found) error {
			s, err := one(f)
			if err != nil {
				return err
			}
			d.progress.end()
			if s.Error != "" {
				_, err = fmt.Fprintf(d.out, "%s  failed  event id %s: %s\n", s.Position, decoder.Excerpt(text(s.ID)), s.Error)
			} else if d.flags.dryRun {
				_, err = fmt.Fprintf(d.out, "%s  %s  event id %s\n", s.Position, s.Outcome, decoder.Excerpt(text(s.ID)))
			}
			return err
		})
		if err == nil {
			_, err = fmt.Fprintf(d.out, "%s %s\n", count(resolved, "event"), done)
		}
	}
	if n := len(d.selection.Positions); err == nil && resolved+left < n {
		// A position that was mistyped must not look like one that was dealt with.
		return fmt.Errorf("%s has %d of the %d positions as dead letters of slot %q that are not resolved; see `outboxd dead-letters list`", d.topic.Subject(), resolved+left, n, d.cfg.Postgres.Slot)
	}
	if err == nil && left > 0 {
		err = fmt.Errorf("%s still cannot be delivered; fix the cause, insert the rows again corrected and discard these, or discard them", count(left, "event"))
	}
	return err
}

func (d *desk) discard(ctx context.Context, f deadletter.Found) (string, error) {
	if d.flags.dryRun {
		return "would be discarded", nil
	}
	return deadletter.Discarded, d.topic.Resolve(ctx, f.Letter, deadletter.Discarded)
}

// retrier publishes by today's configuration.
func (d *desk) retrier() (*deadletter.Retrier, error) {
	o, err := connectorOptions(d.cfg, status.New(0), d.log)
	if err != nil {
		return nil, err
	}
	if o.Sink.TransactionalID != "" {
		o.Sink.TransactionalID += deadLetterID
	}
	o.Sink.Backlog = 0
	return deadletter.NewRetrier(deadletter.RetryOptions{
		Topic: d.topic, Table: o.Table, Rules: o.Rules, Format: o.Format, Sink: o.Sink, DryRun: d.flags.dryRun, Log: d.log,
		Source: func(database string) string { return connector.Source(database, o.Table) },
	})
}

// deadLetterID is appended to the connector's transactional id, which it would lose.
const deadLetterID = "-dead-letters"

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// brief makes content of a row safe for a terminal, and short; printable only safe.
func brief(content string) string {
	return printable(decoder.Cut(content))
}
