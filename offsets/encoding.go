package offsets

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pglogrepl"
)

// ErrUnusable is wrapped by a store's error when what it holds cannot be
// trusted as a position, or when it cannot hold one. Trying again does not help.
var ErrUnusable = errors.New("the store cannot be used")

// encoded is a position as stores keep it, for later versions and for an
// operator's eyes.
type encoded struct {
	// Version is absent in what the first versions wrote. One that is later than this
	// program's is refused: it may say what this program does not know.
	Version   int    `json:"version,omitempty"`
	SystemID  string `json:"system_id"`
	Timeline  int32  `json:"timeline"`
	Slot      string `json:"slot"`
	LSN       string `json:"lsn"`
	CommitLSN string `json:"commit_lsn,omitempty"`
	Number    uint32 `json:"number,omitempty"`
	Past      []mark `json:"past,omitempty"`
	Outbox    *seen  `json:"outbox,omitempty"`
	Backfill  bool   `json:"backfill,omitempty"`
}

type seen struct {
	Table       uint32 `json:"table_oid"`
	Publication uint32 `json:"publication_oid"`
	Entry       uint32 `json:"entry_oid,omitempty"`
	LSN         string `json:"published_lsn"`
}

type mark struct {
	LSN string `json:"lsn"`
	At  int64  `json:"at"` // Unix milliseconds
}

// encodingVersion is the latest. What an earlier one can say is written in it, so that
// an earlier program reads it: only the mark of a backfill is of version 2.
const (
	encodingVersion = 2
	firstVersion    = 1
)

// Encode returns the position as JSON.
func (p Position) Encode() []byte {
	e := encoded{Version: firstVersion, SystemID: p.SystemID, Timeline: p.Timeline, Slot: p.Slot, LSN: p.LSN.String()}
	if p.Inside != (Event{}) {
		e.CommitLSN, e.Number = p.Inside.CommitLSN.String(), p.Inside.Number
	}
	for _, m := range p.Past[:p.Past.len()] {
		e.Past = append(e.Past, mark{m.LSN.String(), m.At})
	}
	if o := p.Outbox; o != (Outbox{}) {
		e.Outbox = &seen{o.Table, o.Publication, o.Entry, o.Seen.String()}
	}
	if p.Backfill {
		e.Version, e.Backfill = encodingVersion, true
	}
	data, err := json.Marshal(e)
	if err != nil {
		panic(err) // there is nothing in it that JSON does not have
	}
	return data
}

// Decode is the reverse of Encode. It takes nothing that is not a whole
// position.
func Decode(data []byte) (Position, error) {
	var e encoded
	if err := json.Unmarshal(data, &e); err != nil {
		return Position{}, fmt.Errorf("not a position: %w", err)
	}
	if e.Version < 0 || e.Version > encodingVersion {
		return Position{}, fmt.Errorf("a position of version %d, which this outboxd does not know; use the version that wrote it, or a later one", e.Version)
	}
	p := Position{SystemID: e.SystemID, Timeline: e.Timeline, Slot: e.Slot, Backfill: e.Backfill}
	lsn, ok := parseLSN(e.LSN)
	ok = ok && e.SystemID != "" && e.Slot != "" && e.Timeline > 0
	p.LSN = lsn
	if e.CommitLSN != "" || e.Number != 0 {
		commit, whole := parseLSN(e.CommitLSN)
		p.Inside = Event{CommitLSN: commit, Number: e.Number}
		// The transaction's commit is behind what is whole.
		ok = ok && whole && e.Number > 0 && commit >= lsn
	}
	ok = ok && len(e.Past) <= len(p.Past)
	for i, m := range e.Past[:min(len(e.Past), len(p.Past))] {
		lsn, whole := parseLSN(m.LSN)
		p.Past[i] = Mark{lsn, m.At}
		ok = ok && whole && m.At > 0 && lsn <= p.LSN && (i == 0 || lsn > p.Past[i-1].LSN)
	}
	if o := e.Outbox; o != nil {
		lsn, whole := parseLSN(o.LSN)
		p.Outbox = Outbox{o.Table, o.Publication, o.Entry, lsn}
		ok = ok && whole && o.Table != 0 && o.Publication != 0
	}
	if !ok {
		return Position{}, fmt.Errorf("not a position: system_id %q, timeline %d, slot %q, lsn %q, commit_lsn %q, number %d, past %v, outbox %+v",
			e.SystemID, e.Timeline, e.Slot, e.LSN, e.CommitLSN, e.Number, e.Past, e.Outbox)
	}
	return p, nil
}

func parseLSN(text string) (pglogrepl.LSN, bool) {
	lsn, err := pglogrepl.ParseLSN(text)
	// ParseLSN takes a valid beginning for the whole.
	return lsn, err == nil && lsn != 0 && strings.EqualFold(lsn.String(), text)
}
