package reconcile

import (
	"hash/maphash"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
)

// sequence follows the positions of one partition, to tell what a crash repeats from
// what should not be there twice.
//
// At-least-once delivery may repeat a suffix: after a crash the connector restarts at
// the last stored position, and sends again, in the same order, everything from there
// to the newest record, and then goes on. So positions fall back once, follow the same
// records as before, and reach the newest one before anything new comes. Such a way
// back is an excursion. It may itself be cut short by another crash, and begin again
// further back; the last one reaches the newest record.
//
// Records that are there twice and not by an excursion that keeps these rules are
// duplicates: an excursion that ends without having reached the newest record, or a
// record in it that does not follow the one that it followed first.
type sequence struct {
	newest, last decoder.Position
	previous     uint32 // identifies the last record
	excursion    uint32 // the one that the last record is part of, 0: none
}

// excursions are those of all partitions, by their numbers from 1. The value says
// whether it kept the rules.
type excursions struct {
	kept []bool
}

// next takes the next record of the partition and fills what its entry keeps of the
// order. Records without a position are in none.
func (s *sequence) next(e *entry, seed maphash.Seed, all *excursions) {
	p := e.position
	if p == (decoder.Position{}) {
		return
	}
	e.previous = s.previous
	switch {
	case p.After(s.newest):
		s.end(all)
		s.newest = p
	default:
		e.flags |= behind
		if s.excursion == 0 {
			all.kept = append(all.kept, true)
			s.excursion = uint32(len(all.kept))
			e.flags |= runStart
		} else if !p.After(s.last) {
			e.flags |= runStart
		}
		e.excursion = s.excursion
	}
	s.last = p
	s.previous = uint32(maphash.Comparable(seed, p)) | 1
}

// end ends the excursion, if there is one: something new has come.
func (s *sequence) end(all *excursions) {
	if s.excursion != 0 && s.last != s.newest {
		all.kept[s.excursion-1] = false
	}
	s.excursion = 0
}

// finish is called at the partition's end. An excursion that has not reached the newest
// record may still be on its way only where that record is not confirmed.
func (s *sequence) finish(confirmed pglogrepl.LSN, all *excursions) {
	if s.newest.CommitLSN < confirmed {
		s.end(all)
	}
}
