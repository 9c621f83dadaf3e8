package table

import (
	"bufio"
	"cmp"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Key is a row's place in the order of the table: the time of its commit where the
// server keeps it, else its business time; then a number that was counted up; then
// where it lies.
type Key struct {
	Time   int64 // Unix microseconds, 0: not known
	Serial int64 // 0: there is none
	Place  Place
}

// Compare orders keys.
func (k Key) Compare(other Key) int {
	return cmp.Or(cmp.Compare(k.Time, other.Time), cmp.Compare(k.Serial, other.Serial),
		cmp.Compare(k.Place.Part, other.Place.Part), cmp.Compare(k.Place.Block, other.Place.Block), cmp.Compare(k.Place.Offset, other.Place.Offset))
}

const keySize = 8 + 8 + 2 + 4 + 2

func (k Key) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(k.Time))
	b = binary.BigEndian.AppendUint64(b, uint64(k.Serial))
	b = binary.BigEndian.AppendUint16(b, k.Place.Part)
	b = binary.BigEndian.AppendUint32(b, k.Place.Block)
	return binary.BigEndian.AppendUint16(b, k.Place.Offset)
}

func readKey(b []byte) Key {
	return Key{
		Time:   int64(binary.BigEndian.Uint64(b)),
		Serial: int64(binary.BigEndian.Uint64(b[8:])),
		Place:  Place{binary.BigEndian.Uint16(b[16:]), binary.BigEndian.Uint32(b[18:]), binary.BigEndian.Uint16(b[22:])},
	}
}

// keysInMemory is how many keys are sorted at once; more go to temporary files of
// that many. They take 32 bytes each.
const keysInMemory = 1 << 20

// Keys are rows in the order of the table, which may be more than fit into memory.
// They are used by one goroutine.
type Keys struct {
	limit int
	n     int64
	batch []Key
	runs  []*os.File
}

// NewKeys returns an empty set of rows.
func NewKeys() *Keys { return &Keys{limit: keysInMemory} }

// Len returns how many there are.
func (k *Keys) Len() int64 { return k.n }

// Add adds a row.
func (k *Keys) Add(key Key) error {
	k.n++
	if k.batch = append(k.batch, key); len(k.batch) < k.limit {
		return nil
	}
	return k.spill()
}

func (k *Keys) spill() error {
	slices.SortFunc(k.batch, Key.Compare)
	f, err := temporary()
	if err != nil {
		return err
	}
	k.runs = append(k.runs, f)
	w := bufio.NewWriter(f)
	b := make([]byte, 0, keySize)
	for _, key := range k.batch {
		b = key.append(b[:0])
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("sort rows: %w; free disk space, or name another folder with TMPDIR", err)
		}
	}
	k.batch = k.batch[:0]
	return w.Flush()
}

// temporary returns a file that vanishes with the process, however that ends.
func temporary() (*os.File, error) {
	f, err := os.CreateTemp("", "outboxd-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w; name a folder with TMPDIR", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	return f, nil
}

// Close frees the temporary files.
func (k *Keys) Close() {
	for _, f := range k.runs {
		f.Close()
	}
	k.runs = nil
}

// Sorted calls visit for each row in order. It is called once.
func (k *Keys) Sorted(visit func(Key) error) error {
	slices.SortFunc(k.batch, Key.Compare)
	h := make(runs, 0, len(k.runs)+1)
	for _, f := range k.runs {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		r := &run{file: bufio.NewReader(f)}
		if ok, err := r.next(); err != nil {
			return err
		} else if ok {
			h = append(h, r)
		}
	}
	if len(k.batch) > 0 {
		r := &run{keys: k.batch}
		_, _ = r.next()
		h = append(h, r)
	}
	heap.Init(&h)
	for len(h) > 0 {
		if err := visit(h[0].at); err != nil {
			return err
		}
		ok, err := h[0].next()
		switch {
		case err != nil:
			return err
		case ok:
			heap.Fix(&h, 0)
		default:
			heap.Pop(&h)
		}
	}
	return nil
}

// run is a sorted sequence of keys.
type run struct {
	at   Key
	keys []Key
	file *bufio.Reader
}

func (r *run) next() (bool, error) {
	if r.file == nil {
		if len(r.keys) == 0 {
			return false, nil
		}
		r.at, r.keys = r.keys[0], r.keys[1:]
		return true, nil
	}
	var b [keySize]byte
	_, err := io.ReadFull(r.file, b[:])
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	r.at = readKey(b[:])
	return err == nil, err
}

type runs []*run

func (h runs) Len() int           { return len(h) }
func (h runs) Less(i, j int) bool { return h[i].at.Compare(h[j].at) < 0 }
func (h runs) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *runs) Push(x any)        { *h = append(*h, x.(*run)) }
func (h *runs) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// rowsAtOnce is how many rows are asked for by their places.
const rowsAtOnce = 100

// InOrder calls visit for the rows of keys, in their order. A row that is gone, or not
// selected by the filter any more, is passed over; missed tells how many. What lies in
// its place by now may be another row that the filter selects, with the same time and
// number or with none.
func (r *Reader) InOrder(ctx context.Context, f Filter, keys *Keys, visit func(*Row) error) (missed int64, err error) {
	batch := make([]Key, 0, rowsAtOnce)
	flush := func() error {
		n, err := r.byPlace(ctx, f, batch, visit)
		missed += int64(len(batch) - n)
		batch = batch[:0]
		return err
	}
	err = keys.Sorted(func(k Key) error {
		if len(batch) > 0 && batch[0].Place.Part != k.Place.Part || len(batch) == rowsAtOnce {
			if err := flush(); err != nil {
				return err
			}
		}
		batch = append(batch, k)
		return nil
	})
	if err == nil && len(batch) > 0 {
		err = flush()
	}
	return missed, err
}

// byPlace visits rows of one table by where they lie, in the order of the keys.
func (r *Reader) byPlace(ctx context.Context, f Filter, keys []Key, visit func(*Row) error) (n int, err error) {
	where, args, err := r.where(f)
	if err != nil {
		return 0, err
	}
	var places strings.Builder
	for i, k := range keys {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		fmt.Fprintf(&places, `%s"(%d,%d)"`, sep, k.Place.Block, k.Place.Offset)
	}
	places.WriteByte('}')
	for at, s := range r.tables {
		for _, p := range s.parts {
			if p.index != int(keys[0].Place.Part) {
				continue
			}
			sql := fmt.Sprintf("%s FROM ONLY %s t WHERE t.ctid = ANY ($%[3]d::tid[])%[4]s ORDER BY array_position($%[3]d::tid[], t.ctid)",
				r.selected(s), p.name, len(args)+1, where)
			i := 0
			err := r.query(ctx, sql, append(args, places.String()), at > 0, func(row *Row) error {
				for i < len(keys) && keys[i].Place != row.Place {
					i++
				}
				if i == len(keys) || keys[i] != row.Key {
					return nil
				}
				n++
				return visit(row)
			})
			if isGone(err) {
				err = nil
			}
			return n, err
		}
	}
	return 0, nil
}
