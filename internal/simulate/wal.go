package simulate

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pglogrepl"
)

// row is an outbox row, or a transactional message that is an event.
type row struct {
	lsn     pglogrepl.LSN
	id      string
	kind    string // its type
	topic   string // that it has to arrive in
	key     string
	payload string
	message bool
	refused bool   // by the brokers, once it is sent
	number  uint32 // in its transaction, from 1
}

// transaction is one of the outbox's database. It is in the WAL with a record for each
// row (or one for many: COPY) and one for its end.
type transaction struct {
	xid   uint32
	first pglogrepl.LSN // its first record
	rows  []*row
	// commit and end are where its commit record begins and ends, zero while it is open
	// or when it was rolled back.
	commit, end pglogrepl.LSN
	aborted     bool
	committedAt time.Time
	// lost says that the database has lost it: a standby was promoted that did not have
	// it. excused, that the operator has given it up.
	lost, excused bool
	// had says of one that is lost that a server that was reached had it.
	had bool
	// unseen counts its rows that no reader of Kafka can see yet.
	unseen int
	// whole is how many of its first rows have arrived.
	whole int
}

// expected reports whether its events have to arrive.
func (tx *transaction) expected() bool { return tx.commit != 0 && !tx.lost && !tx.excused }

// position is what the header of an event says.
func (tx *transaction) position(r *row) string {
	return position(tx.commit, r.number)
}

// position is how an event's header has it: both in hexadecimal digits, 16 and 8.
func position(at pglogrepl.LSN, number uint32) string {
	const digits = "0123456789ABCDEF"
	var b [25]byte
	b[16] = '-'
	for i, n := 24, number; i > 16; i, n = i-1, n>>4 {
		b[i] = digits[n&15]
	}
	for i, n := 15, at; i >= 0; i, n = i-1, n>>4 {
		b[i] = digits[n&15]
	}
	return string(b[:])
}

// record is one record of the WAL, or several that mean nothing to a walsender.
type record struct {
	begin, end pglogrepl.LSN
	tx         *transaction // that it commits, or nil
	stray      string       // content of a message that is not transactional
	// empty says that it commits a transaction of which nothing is published; servers
	// before PostgreSQL 15 send its beginning and end.
	empty     bool
	committed time.Time
}

// columns of the outbox, all of them text.
var columns = []string{"id", "type", "aggregatetype", "aggregateid", "payload"}

const (
	messagePrefix = "outbox"
	textOID       = 25
	relationID    = 16385
)

// pgMicros is a time as the protocol has it.
func pgMicros(t time.Time) uint64 { return uint64(t.UnixMicro() - 946_684_800_000_000) }

// frame appends an XLogData message to b, as CopyData.
func frame(b []byte, at pglogrepl.LSN, now time.Time, data []byte) []byte {
	b = append(b, 'd')
	b = binary.BigEndian.AppendUint32(b, uint32(4+25+len(data)))
	b = append(b, 'w')
	b = binary.BigEndian.AppendUint64(b, uint64(at)) // the record
	b = binary.BigEndian.AppendUint64(b, uint64(at)) // logical decoding says the same again
	b = binary.BigEndian.AppendUint64(b, pgMicros(now))
	return append(b, data...)
}

// keepalive appends a keepalive to b, as CopyData.
func keepalive(b []byte, sent pglogrepl.LSN, now time.Time, reply bool) []byte {
	b = append(b, 'd', 0, 0, 0, 4+18, 'k')
	b = binary.BigEndian.AppendUint64(b, uint64(sent))
	b = binary.BigEndian.AppendUint64(b, pgMicros(now))
	if reply {
		return append(b, 1)
	}
	return append(b, 0)
}

func beginMessage(commit pglogrepl.LSN, at time.Time, xid uint32) []byte {
	m := binary.BigEndian.AppendUint64([]byte{'B'}, uint64(commit))
	m = binary.BigEndian.AppendUint64(m, pgMicros(at))
	return binary.BigEndian.AppendUint32(m, xid)
}

func commitMessage(commit, end pglogrepl.LSN, at time.Time) []byte {
	m := binary.BigEndian.AppendUint64([]byte{'C', 0}, uint64(commit))
	m = binary.BigEndian.AppendUint64(m, uint64(end))
	return binary.BigEndian.AppendUint64(m, pgMicros(at))
}

func relationMessage() []byte {
	m := binary.BigEndian.AppendUint32([]byte{'R'}, relationID)
	m = append(m, "public\x00outbox\x00d"...)
	m = append(m, 0, byte(len(columns)))
	for _, c := range columns {
		m = append(m, 0)
		m = append(m, c...)
		m = append(m, 0)
		m = binary.BigEndian.AppendUint32(m, textOID)
		m = append(m, 0xFF, 0xFF, 0xFF, 0xFF)
	}
	return m
}

func insertMessage(r *row) []byte {
	m := binary.BigEndian.AppendUint32([]byte{'I'}, relationID)
	m = append(m, 'N', 0, byte(len(columns)))
	for _, v := range []string{r.id, r.kind, "aggregate", r.key, r.payload} {
		m = append(m, 't')
		m = binary.BigEndian.AppendUint32(m, uint32(len(v)))
		m = append(m, v...)
	}
	return m
}

// logicalMessage is what pg_logical_emit_message has written.
func logicalMessage(transactional bool, at pglogrepl.LSN, content string) []byte {
	m := []byte{'M', 0}
	if transactional {
		m[1] = 1
	}
	m = binary.BigEndian.AppendUint64(m, uint64(at))
	m = append(m, messagePrefix+"\x00"...)
	m = binary.BigEndian.AppendUint32(m, uint32(len(content)))
	return append(m, content...)
}

func (r *row) content() string {
	return fmt.Sprintf(`{"id":%q,"type":%q,"aggregatetype":"aggregate","aggregateid":%q,"payload":%s}`, r.id, r.kind, r.key, r.payload)
}

// write appends a record of so many bytes to the WAL, and returns where it lies. The
// caller holds mu.
func (s *postgres) write(size int) *record {
	begin := s.end
	s.end += pglogrepl.LSN((size + 7) &^ 7)
	s.log = append(s.log, record{begin: begin, end: s.end})
	return &s.log[len(s.log)-1]
}

// begin opens a transaction.
func (s *postgres) begin() *transaction {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.xid++
	tx := &transaction{xid: s.xid}
	s.open = append(s.open, tx)
	return tx
}

// insert writes rows of a transaction. copied rows are in one record.
func (s *postgres) insert(tx *transaction, rows []*row, copied bool) {
	s.update(func() {
		for i, r := range rows {
			if i == 0 || !copied {
				at := s.write(100).begin
				r.lsn = at
				if tx.first == 0 {
					tx.first = at
				}
			} else {
				r.lsn = rows[0].lsn
			}
			r.number = uint32(len(tx.rows) + 1)
			tx.rows = append(tx.rows, r)
		}
	})
}

// finish ends an open transaction.
func (s *postgres) finish(tx *transaction, commit bool) {
	s.update(func() {
		s.open = slices.DeleteFunc(s.open, func(o *transaction) bool { return o == tx })
		rec := s.write(48)
		if tx.aborted = !commit; tx.aborted {
			return
		}
		tx.committedAt = time.Now().Add(s.ahead)
		rec.committed = tx.committedAt
		if len(tx.rows) == 0 {
			rec.empty = true
			return
		}
		tx.commit, tx.end, tx.unseen = rec.begin, rec.end, len(tx.rows)
		rec.tx = tx
		s.w.verifier.committed(tx)
	})
}

// foreign writes WAL that is none of the outbox's: of other databases, or, if it ends
// a transaction, of other tables.
func (s *postgres) foreign(size int, commits bool) pglogrepl.LSN {
	var end pglogrepl.LSN
	s.update(func() {
		rec := s.write(size)
		rec.empty, rec.committed = commits, time.Now().Add(s.ahead)
		end = rec.end
	})
	return end
}

// stray writes a message that is in no transaction.
func (s *postgres) stray(content string) {
	s.update(func() { s.write(80).stray = content })
}
