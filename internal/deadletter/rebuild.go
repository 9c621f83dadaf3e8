package deadletter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"outboxd/decoder"
)

// ErrTruncated is wrapped by the error of a letter that does not hold the whole row.
var ErrTruncated = errors.New("the dead letter does not hold the whole row")

// Rebuild makes the event again, in the words of the stream that it came from: frames
// that a decoder of today's table reads as it read the first ones. The event is valid
// until the next call; it has the position and the commit time that it had.
func (l *Letter) Rebuild(table decoder.Table) (*decoder.Event, error) {
	switch {
	case l.Event.Withheld:
		return nil, fmt.Errorf("%w: its payload was left out, since nobody could say what value.mask has to mask in it; insert the event again as a new row, and discard this one", ErrTruncated)
	case len(l.Truncated.Columns) > 0:
		return nil, fmt.Errorf("%w: it was cut to fit into its topic (error.truncated); insert the event again as a new row, and discard this one", ErrTruncated)
	case len(l.Event.Columns) == 0:
		return nil, fmt.Errorf("%w: it has no header error.event that names the columns", ErrTruncated)
	}
	// What a name meant then is in the letter, and not in the catalog of now.
	table.Domains, table.Types = nil, nil
	frames, err := l.frames(&table)
	if err != nil {
		return nil, err
	}
	d := decoder.New(table)
	for _, frame := range frames {
		if _, err = d.Decode(frame); err != nil {
			break
		}
	}
	ev := d.Event()
	ev.Position = l.Position
	return ev, err
}

// frames are a transaction's Begin, and the row or the message.
func (l *Letter) frames(table *decoder.Table) ([][]byte, error) {
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	begin := binary.BigEndian.AppendUint64([]byte{'B'}, uint64(l.Position.CommitLSN))
	begin = binary.BigEndian.AppendUint64(begin, uint64(l.Event.CommittedAt.UnixMicro()-epoch.UnixMicro()))
	begin = binary.BigEndian.AppendUint32(begin, 0)
	if l.Event.Prefix != "" {
		if table.MessagePrefix == "" {
			return nil, errors.New("it is a message, and outbox.message_prefix is not set")
		}
		// Int8 flags, Int64 LSN, String prefix, Int32 length, the content.
		m := append([]byte{'M', 1}, make([]byte, 8)...)
		m = append(append(m, table.MessagePrefix...), 0)
		m = binary.BigEndian.AppendUint32(m, uint32(len(l.Values[0])))
		return [][]byte{begin, append(m, l.Values[0]...)}, nil
	}
	if table.Name == "" {
		return nil, errors.New("it is a row, and outbox.table is not set")
	}
	columns := make([]decoder.RowColumn, len(l.Event.Columns))
	for i, c := range l.Event.Columns {
		oid, err := typeOID(c.Type)
		if err != nil {
			return nil, fmt.Errorf("column %q: type %q: %w", c.Name, c.Type, err)
		}
		columns[i] = decoder.RowColumn{Name: c.Name, Type: oid, Modifier: -1}
		if c.Modifier != nil {
			columns[i].Modifier = *c.Modifier
		}
	}
	return [][]byte{begin, decoder.AppendRelation(nil, table.Schema, table.Name, columns), decoder.AppendInsert(nil, l.Values)}, nil
}
