package reconcile

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"os"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
)

// kind says what an entry stands for.
type kind uint8

const (
	rowEntry      kind = iota + 1
	recordEntry        // in Kafka
	inFlightEntry      // in the WAL behind what is confirmed
	deadEntry          // in the dead-letter topic
)

// flags of an entry.
type flags uint8

const (
	archived   flags = 1 << iota // a row of the archive
	discarded                    // a row that a rule discards
	unroutable                   // a row that can never be delivered as it is
	again                        // a record that was published again by an operator
	runStart                     // the first record of a repetition
	behind                       // a record that comes after one with a later position
)

// entry is what is kept of a row or a record: about a hundred bytes and the id.
type entry struct {
	kind  kind
	flags flags
	topic uint16
	id    string
	sum   digest
	// time is the row's time, or the record's; Unix milliseconds, 0: not known.
	time int64
	// committed is when the event was committed, as row or record say; 0: not known.
	committed int64
	// number is the row's number in the order of reading, or the record's offset.
	number uint64

	// Of a record. With another publisher's records, position is the row's place in the
	// order of the table.
	partition int32
	position  decoder.Position
	// previous identifies the record before it, excursion the repetition that it is
	// part of, 0 for none: see sequence.
	previous, excursion uint32
	key                 uint64 // a hash of topic and key; 0: no key
}

// parts is how many parts the entries are divided into by their ids. One part is in
// memory at a time: of 5,000,000 events it has some 40,000 entries.
const parts = 256

// bucket is one part of the entries. Where both sides have the same count and the same
// sum, and nothing else is to be told apart, it need not be looked into.
type bucket struct {
	file          *os.File
	w             *bufio.Writer
	rows, records int64
	rowSum        [2]uint64
	recordSum     [2]uint64
	closer        bool
	oldestRecord  int64
	newestRow     int64
}

// oldest is the time of the oldest record.
func (b *bucket) oldest() int64 {
	if b.records == 0 {
		return math.MaxInt64
	}
	return b.oldestRecord
}

func add(sum *[2]uint64, d digest) {
	sum[0] += binary.LittleEndian.Uint64(d[:8])
	sum[1] += binary.LittleEndian.Uint64(d[8:])
}

// agrees reports whether both sides have the same.
func (b *bucket) agrees() bool {
	return !b.closer && b.rows == b.records && b.rowSum == b.recordSum
}

// spill keeps entries in temporary files, which vanish with the process. It is used by
// one goroutine.
type spill struct {
	seed    maphash.Seed
	buckets [parts]bucket
	b       []byte
}

const bufferSize = 16 << 10

func newSpill() (*spill, error) {
	s := &spill{seed: maphash.MakeSeed()}
	dir, err := os.MkdirTemp("", "outboxd-reconcile-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary folder: %w; name another place with TMPDIR", err)
	}
	defer os.RemoveAll(dir) // the files stay as long as they are open
	for i := range s.buckets {
		f, err := os.CreateTemp(dir, "")
		if err != nil {
			s.close()
			return nil, fmt.Errorf("make a temporary file: %w", err)
		}
		s.buckets[i].file, s.buckets[i].w = f, bufio.NewWriterSize(f, bufferSize)
	}
	return s, nil
}

func (s *spill) close() {
	for i := range s.buckets {
		if f := s.buckets[i].file; f != nil {
			f.Close()
		}
	}
}

// add keeps an entry. closer has its bucket looked into, whatever the sums say.
func (s *spill) add(e *entry, closer bool) error {
	return s.addTo(maphash.String(s.seed, e.id), e, closer)
}

// addTo keeps an entry with the others of this hash.
func (s *spill) addTo(hash uint64, e *entry, closer bool) error {
	b := &s.buckets[hash%parts]
	switch {
	case e.kind == rowEntry && e.flags&(discarded|unroutable) == 0:
		b.rows++
		b.newestRow = max(b.newestRow, e.time)
		add(&b.rowSum, e.sum)
	case e.kind == recordEntry && e.flags&again == 0:
		if b.records++; b.records == 1 || e.time < b.oldestRecord {
			b.oldestRecord = e.time
		}
		add(&b.recordSum, e.sum)
	}
	b.closer = b.closer || closer
	s.b = e.append(s.b[:0])
	if _, err := b.w.Write(s.b); err != nil {
		return fmt.Errorf("keep what was read: %w; free disk space, or name another place with TMPDIR", err)
	}
	return nil
}

const fixedSize = 1 + 1 + 2 + 16 + 8 + 8 + 8 + 4 + 8 + 4 + 4 + 4 + 8 + 2

// maxID is the most bytes of an id that are compared.
const maxID = 1<<16 - 1

func (e *entry) append(b []byte) []byte {
	b = append(b, byte(e.kind), byte(e.flags))
	b = binary.LittleEndian.AppendUint16(b, e.topic)
	b = append(b, e.sum[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(e.time))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.committed))
	b = binary.LittleEndian.AppendUint64(b, e.number)
	b = binary.LittleEndian.AppendUint32(b, uint32(e.partition))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.position.CommitLSN))
	b = binary.LittleEndian.AppendUint32(b, e.position.Number)
	b = binary.LittleEndian.AppendUint32(b, e.previous)
	b = binary.LittleEndian.AppendUint32(b, e.excursion)
	b = binary.LittleEndian.AppendUint64(b, e.key)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(e.id)))
	return append(b, e.id...)
}

func (e *entry) read(r *bufio.Reader) error {
	var b [fixedSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	u16, u32, u64 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	*e = entry{
		kind: kind(b[0]), flags: flags(b[1]), topic: u16(b[2:]), sum: digest(b[4:20]),
		time: int64(u64(b[20:])), committed: int64(u64(b[28:])), number: u64(b[36:]), partition: int32(u32(b[44:])),
		position: decoder.Position{CommitLSN: pglogrepl.LSN(u64(b[48:])), Number: u32(b[56:])},
		previous: u32(b[60:]), excursion: u32(b[64:]), key: u64(b[68:]),
	}
	id := make([]byte, u16(b[76:]))
	if _, err := io.ReadFull(r, id); err != nil {
		return err
	}
	e.id = string(id)
	return nil
}

// each calls visit for the entries of a bucket, in the order in which they were added.
func (s *spill) each(bucket int, visit func(*entry) error) error {
	b := &s.buckets[bucket]
	if err := b.w.Flush(); err != nil {
		return fmt.Errorf("keep what was read: %w; free disk space, or name another place with TMPDIR", err)
	}
	if _, err := b.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReaderSize(b.file, 4*bufferSize)
	for {
		var e entry
		err := e.read(r)
		if errors.Is(err, io.EOF) {
			_, err = b.file.Seek(0, io.SeekEnd)
			return err
		}
		if err == nil {
			err = visit(&e)
		}
		if err != nil {
			return err
		}
	}
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
