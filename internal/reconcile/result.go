package reconcile

import (
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"outboxd/decoder"
	"outboxd/internal/table"
)

// Kinds of mismatches.
const (
	Missing    = "missing"
	Duplicate  = "duplicate"
	Unexpected = "unexpected"
	OutOfOrder = "out_of_order"
	Different  = "different"
	Late       = "late"
)

// Kinds are all kinds of mismatches, in the order in which they are shown.
var Kinds = []string{Missing, Duplicate, Unexpected, OutOfOrder, Different, Late}

var kindTexts = map[string]string{
	Missing:    "rows without a record",
	Duplicate:  "records that are there more often than delivery repeats them",
	Unexpected: "records without a row",
	OutOfOrder: "records behind a later event of their key",
	Different:  "records with another topic, key or value than their row gives",
	Late:       "records that came later after the commit than reconcile.late",
}

// What cannot be compared, and is no mismatch.
var notComparable = []struct{ kind, text string }{
	{"in_flight", "rows that are not confirmed yet, or too young to be compared"},
	{"expired", "rows older than what the retention of their topic has left"},
	{"compacted", "rows whose records compaction may have removed"},
	{"removed", "records whose rows may have been removed"},
	{"no_id", "rows without an id"},
	{"discarded", "rows that a rule discards"},
	{"dead_lettered", "rows that are in the dead-letter topic"},
	{"repeated", "records that at-least-once delivery has repeated"},
	{"in_doubt", "rows that may have been delivered before retention or compaction removed their records"},
	{"corrected", "records that differed, and were published again as their row gives them"},
	{"replayed", "records that an operator has published again"},
}

// Result is what a comparison found.
type Result struct {
	// Verdict is agree or differ.
	Verdict string `json:"verdict"`
	// Rows and Records are how many were read. A row that was archived meanwhile, and
	// seen in both tables, is one.
	Rows    int64 `json:"rows"`
	Records int64 `json:"records"`
	// Matched are rows that have their record.
	Matched       int64            `json:"matched"`
	Mismatches    map[string]int64 `json:"mismatches"`
	NotComparable map[string]int64 `json:"not_comparable"`
	Examples      []Example        `json:"examples,omitempty"`
	// Notes say what was not compared, and why.
	Notes   []string `json:"notes,omitempty"`
	Seconds float64  `json:"seconds"`
	// Repaired is how many records were published, with --repair.
	Repaired int64 `json:"repaired,omitempty"`

	undeliverable string
	missing       []uint64
	seed          maphash.Seed
}

// Example is one mismatch.
type Example struct {
	Kind      string `json:"kind"`
	ID        string `json:"id,omitempty"`
	Topic     string `json:"topic,omitempty"`
	Partition *int32 `json:"partition,omitempty"`
	Offset    *int64 `json:"offset,omitempty"`
	Position  string `json:"position,omitempty"`
	Detail    string `json:"detail,omitempty"`
}

func (r *Result) note(text string) {
	if !slices.Contains(r.Notes, text) {
		r.Notes = append(r.Notes, text)
	}
}

// found counts a mismatch, and keeps the first examples of each kind.
func (r *Result) found(e Example) {
	r.Mismatches[e.Kind]++
	n := 0
	for _, other := range r.Examples {
		if other.Kind == e.Kind {
			n++
		}
	}
	if n < examples {
		r.Examples = append(r.Examples, e)
	}
}

// Differ reports whether there is any mismatch.
func (r *Result) Differ() bool {
	for _, n := range r.Mismatches {
		if n > 0 {
			return true
		}
	}
	return false
}

func (r *Result) finish() {
	r.Verdict = "agree"
	if r.Differ() {
		r.Verdict = "differ"
	}
	for kind, n := range r.NotComparable {
		if n == 0 {
			delete(r.NotComparable, kind)
		}
	}
	slices.SortStableFunc(r.Examples, func(a, b Example) int {
		return slices.Index(Kinds, a.Kind) - slices.Index(Kinds, b.Kind)
	})
}

// Print writes the result for people.
func (r *Result) Print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%d rows and %d records were compared in %s; %d rows have their record.\n\n", r.Rows, r.Records,
		time.Duration(r.Seconds*float64(time.Second)).Round(100*time.Millisecond), r.Matched)
	for _, kind := range Kinds {
		fmt.Fprintf(w, "%s\t%d\t%s\n", strings.ReplaceAll(kind, "_", " "), r.Mismatches[kind], kindTexts[kind])
	}
	heading := "\nNot comparable, and no mismatch:\n"
	for _, c := range notComparable {
		if n := r.NotComparable[c.kind]; n > 0 {
			fmt.Fprintf(w, "%s%s\t%d\t%s\n", heading, strings.ReplaceAll(c.kind, "_", " "), n, c.text)
			heading = ""
		}
	}
	heading = "\nExamples:\n"
	for _, e := range r.Examples {
		where := e.Topic
		if e.Partition != nil && e.Offset != nil {
			where = fmt.Sprintf("%s, partition %d, offset %d", e.Topic, *e.Partition, *e.Offset)
		}
		fmt.Fprintf(w, "%s%s\tid %s\t%s\t%s\n", heading, strings.ReplaceAll(e.Kind, "_", " "), e.ID, where, e.Detail)
		heading = ""
	}
	heading = "\n"
	for _, n := range r.Notes {
		fmt.Fprintf(w, "%sNote: %s.\n", heading, n)
		heading = ""
	}
	if r.Repaired > 0 {
		fmt.Fprintf(w, "\nPublished of what was missing, with the header replayed: true: %d.\n", r.Repaired)
	}
	return w.Flush()
}

// Note adds a note for the reader.
func (r *Result) Note(text string) { r.note(text) }

// Missing are hashes of the ids that are missing, in order.
func (r *Result) Missing() []uint64 { return r.missing }

// IsMissing reports whether a row's event is missing. Of ids with one hash, which are
// hardly ever two, all are.
func (r *Result) IsMissing(row *table.Row) bool {
	_, found := slices.BinarySearch(r.missing, maphash.Bytes(r.seed, row.Event.Values[decoder.ID]))
	return found
}

// Undeliverable says which row can never be delivered as it is, "" if there is none.
func (r *Result) Undeliverable() string { return r.undeliverable }
