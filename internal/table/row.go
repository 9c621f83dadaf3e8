package table

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"outboxd/decoder"
)

// describe tells the decoder of the columns.
func (r *Reader) describe(fields []pgconn.FieldDescription) error {
	var columns []decoder.RowColumn
	for _, f := range fields[described:] {
		columns = append(columns, decoder.RowColumn{Name: f.Name, Type: f.DataTypeOID, Modifier: f.TypeModifier})
	}
	// Also of the archive: its rows are the outbox's.
	_, err := r.decoder.Decode(decoder.AppendRelation(nil, r.o.Event.Schema, r.o.Event.Name, columns))
	return err
}

// row decodes one row.
func (r *Reader) row(ctx context.Context, values [][]byte, archived bool) (Row, error) {
	row := Row{Archived: archived}
	var err error
	if row.Place, err = r.place(values[0], values[1]); err != nil {
		return row, err
	}
	if values[2] != nil {
		us, err := strconv.ParseInt(string(values[2]), 10, 64)
		if err != nil {
			return row, err
		}
		row.Committed = time.UnixMicro(us).UTC()
	}
	if values[3] != nil {
		if row.Key.Serial, err = strconv.ParseInt(string(values[3]), 10, 64); err != nil {
			return row, err
		}
	}
	frame, err := r.insert(ctx, values[described:])
	if err != nil {
		return row, err
	}
	if _, err := r.decoder.Decode(frame); err != nil {
		if !errors.Is(err, decoder.ErrRow) {
			return row, err
		}
		row.Err = err
	}
	row.Event = r.decoder.Event()
	// The table does not keep either.
	row.Event.Position, row.Event.CommittedAt = decoder.Position{}, row.Committed
	row.Key.Place = row.Place
	switch {
	case !row.Committed.IsZero():
		row.Key.Time = row.Committed.UnixMicro()
	case row.Event.Values[decoder.Timestamp] != nil && row.Err == nil:
		row.Key.Time = row.Event.Time.UnixMicro()
	}
	return row, nil
}

// Time returns the best that is known of when the row was committed; zero: nothing is.
func (r *Row) Time() time.Time {
	switch {
	case !r.Committed.IsZero():
		return r.Committed
	case r.Err == nil && r.Event.Values[decoder.Timestamp] != nil:
		return r.Event.Time
	}
	return time.Time{}
}

func (r *Reader) place(table, tid []byte) (Place, error) {
	oid, err := strconv.ParseUint(string(table), 10, 32)
	if err != nil {
		return Place{}, err
	}
	block, offset, ok := strings.Cut(strings.Trim(string(tid), "()"), ",")
	b, err1 := strconv.ParseUint(block, 10, 32)
	o, err2 := strconv.ParseUint(offset, 10, 16)
	if !ok || err1 != nil || err2 != nil {
		return Place{}, fmt.Errorf("%q is no place of a row", tid)
	}
	p := Place{Block: uint32(b), Offset: uint16(o)}
	for _, s := range r.tables {
		for _, part := range s.parts {
			if part.oid == uint32(oid) {
				p.Part = uint16(part.index)
			}
		}
	}
	return p, nil
}

// insert returns the frame of a row.
func (r *Reader) insert(ctx context.Context, values [][]byte) ([]byte, error) {
	if r.o.Make != nil {
		frame, err := r.o.Make(ctx, decoder.InsertLen(values))
		if err != nil {
			return nil, err
		}
		return decoder.AppendInsert(frame[:0], values), nil
	}
	r.frame = decoder.AppendInsert(r.frame[:0], values)
	return r.frame, nil
}
