// Package table reads rows of the outbox table, and of the table that they are
// archived to, as the events that the stream made of them.
//
// A row is turned into the frame that pgoutput would have sent and goes through the
// same decoder, so that what is made of it afterwards is the same byte for byte. What
// a table does not keep is not invented: an event that was read from it has no
// position, and a commit time only where the server keeps those
// (track_commit_timestamp).
//
// Rows are read in pieces of some hundred blocks, each with a statement of its own:
// no index is needed, memory does not grow with the table, and no transaction stays
// open that would hold back VACUUM. What is inserted or moved while a scan runs may
// be seen or not.
package table

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"outboxd/decoder"
	"outboxd/internal/replication"
)

// Name is a table's name.
type Name struct{ Schema, Table string }

func (n Name) sql() string {
	return replication.QuoteIdent(n.Schema) + "." + replication.QuoteIdent(n.Table)
}

// Options say what to read.
type Options struct {
	// Event is the outbox table as the decoder has it.
	Event decoder.Table
	// Archive is the table that rows are moved to; the zero value: none. It is read
	// after the outbox, so that a row that is moved meanwhile is seen twice rather than
	// not at all.
	Archive Name
	// Where is an SQL condition that selects the rows that are published, "" for all.
	Where string
	// Make returns the memory of a row, which the caller owns; nil: a row's memory is
	// used again for the next one.
	Make func(ctx context.Context, size int) ([]byte, error)
}

// Reader reads rows over one connection. It is used by one goroutine.
type Reader struct {
	o       Options
	pg      *pgconn.PgConn
	version int
	tracked bool // the server keeps commit times
	columns []string
	tables  []source
	decoder *decoder.Decoder
	frame   []byte // of the last row, where it is used again
	parts   int
	done    int64 // blocks

	timeType, idType string // of the columns, as SQL
}

// source is a table that is read.
type source struct {
	name   Name
	serial string // a column that was counted up, "" for none
	parts  []part
	roots  string // what to select from for all of it
}

// part is a table that has rows of its own.
type part struct {
	index int
	oid   uint32
	name  string // as SQL
}

// Place says where a row lies, as long as nothing moves it.
type Place struct {
	Part   uint16 // index of the table among those that have rows
	Block  uint32
	Offset uint16
}

// Row is a row of the outbox. It and its event are valid until the next one is read.
type Row struct {
	Event *decoder.Event
	// Err says why the row is no event that can be delivered; it wraps decoder.ErrRow.
	Err   error
	Place Place
	// Archived says that the row is in the archive.
	Archived bool
	// Committed is when its transaction was committed, zero where the server does not
	// keep that.
	Committed time.Time
	// Key is the row's place in the order of the table, which is the order of commits
	// as far as it is known.
	Key Key
}

// ErrNoTime is the error of a window of time in a table whose rows have none.
var ErrNoTime = errors.New("the rows have no time: map a column with outbox.columns.timestamp, or set track_commit_timestamp = on")

// Open reads what has to be known of the tables. The reader does not close the
// connection, which must print values as the stream does.
func Open(ctx context.Context, pg *pgconn.PgConn, o Options) (*Reader, error) {
	r := &Reader{o: o, pg: pg, decoder: decoder.New(o.Event)}
	for _, c := range o.Event.Columns {
		if c.Name != "" && !slices.Contains(r.columns, c.Name) {
			r.columns = append(r.columns, c.Name)
		}
	}
	// A scan of some blocks must not become one of the table.
	row, err := r.one(ctx, `SELECT current_setting('server_version_num'), current_setting('track_commit_timestamp'), set_config('enable_seqscan', 'off', false)`)
	if err != nil {
		return nil, fmt.Errorf("read the outbox table: %w", err)
	}
	r.version, r.tracked = atoi(row[0]), string(row[1]) == "on"
	names := []Name{{o.Event.Schema, o.Event.Name}}
	if o.Archive != (Name{}) {
		names = append(names, o.Archive)
	}
	for _, name := range names {
		s, err := r.look(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", name.sql(), err)
		}
		r.tables = append(r.tables, s)
	}
	// Positions in these frames are nobody's: see event.
	begin := make([]byte, 1+8+8+4)
	begin[0] = 'B'
	if _, err := r.decoder.Decode(begin); err != nil {
		return nil, err
	}
	return r, nil
}

// look reads what a table is.
func (r *Reader) look(ctx context.Context, name Name) (source, error) {
	s := source{name: name}
	columns := r.o.Event.Columns
	id, timestamp := columns[decoder.ID].Name, columns[decoder.Timestamp].Name
	typeOf := `(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = %s AND NOT a.attisdropped)`
	row, err := r.one(ctx, `SELECT c.relkind::text,
			coalesce((SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = $2 AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)),
				(SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
					WHERE i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1 AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype))),
			`+fmt.Sprintf(typeOf, "$2")+`, `+fmt.Sprintf(typeOf, "$3")+`
		FROM pg_class c WHERE c.oid = $1::regclass`, name.sql(), id, timestamp)
	if err != nil {
		return s, err
	}
	s.serial = string(row[1])
	if len(r.tables) == 0 {
		r.idType, r.timeType = string(row[2]), string(row[3])
	}
	s.roots = "ONLY " + name.sql() // those that inherit from it are other tables to the stream
	leaves := `SELECT c.oid::text, quote_ident(n.nspname) || '.' || quote_ident(c.relname)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::regclass`
	if string(row[0]) == "p" {
		s.roots = name.sql()
		// In the order in which they were made, which is most often that of their rows.
		leaves = `SELECT c.oid::text, quote_ident(n.nspname) || '.' || quote_ident(c.relname)
			FROM pg_partition_tree($1::regclass) t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE t.isleaf AND c.relkind = 'r' ORDER BY c.oid`
	}
	rows, err := r.ask(ctx, leaves, name.sql())
	if err != nil {
		return s, err
	}
	for _, row := range rows {
		oid, err := strconv.ParseUint(string(row[0]), 10, 32)
		if err != nil {
			return s, err
		}
		s.parts = append(s.parts, part{r.parts, uint32(oid), string(row[1])})
		r.parts++
	}
	return s, nil
}

// selected is the list of what is selected from a table: where the row lies and when
// it was committed, and then the event's columns. Rows of one statement come from
// tables with the same columns.
func (r *Reader) selected(s source) string {
	committed := "NULL::int8"
	if r.tracked {
		committed = "(extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::int8"
	}
	serial := "NULL::int8"
	if s.serial != "" {
		serial = replication.QuoteIdent(s.serial) + "::int8"
	}
	var b strings.Builder
	b.WriteString("SELECT tableoid, ctid, " + committed + ", " + serial)
	for _, c := range r.columns {
		b.WriteString(", " + replication.QuoteIdent(c))
	}
	return b.String()
}

// described is how many columns come before the event's.
const described = 4

// HasTime reports whether rows can be selected by their time, and what that is.
func (r *Reader) HasTime() bool { return r.tracked || r.timeType != "" }

// Tracked reports whether the server keeps the times of commits.
func (r *Reader) Tracked() bool { return r.tracked }

// Ordered reports whether the order of rows is more than how they lie in the table.
func (r *Reader) Ordered() bool { return r.HasTime() || r.tables[0].serial != "" }

// ask runs a query with few rows.
func (r *Reader) ask(ctx context.Context, sql string, args ...string) ([][][]byte, error) {
	values := make([][]byte, len(args))
	for i, a := range args {
		values[i] = []byte(a)
	}
	result := r.pg.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	return result.Rows, result.Err
}

func (r *Reader) one(ctx context.Context, sql string, args ...string) ([][]byte, error) {
	rows, err := r.ask(ctx, sql, args...)
	if err == nil && len(rows) != 1 {
		err = fmt.Errorf("%d rows instead of one", len(rows))
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

func atoi(text []byte) int {
	n, _ := strconv.Atoi(string(text))
	return n
}

// Removed returns how many rows the server counts as deleted from the outbox since its
// statistics began: somebody removes rows. settled says that no other session is there
// that could have counted some and not told yet.
func (r *Reader) Removed(ctx context.Context) (n int64, settled bool, err error) {
	oids := make([]string, 0, r.parts)
	for _, p := range r.tables[0].parts {
		oids = append(oids, strconv.FormatUint(uint64(p.oid), 10))
	}
	row, err := r.one(ctx, `SELECT coalesce(sum(pg_stat_get_tuples_deleted(oid)), 0)::text, NOT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name IS DISTINCT FROM current_setting('application_name'))
		FROM unnest($1::oid[]) oid`, "{"+strings.Join(oids, ",")+"}")
	if err != nil {
		return 0, false, fmt.Errorf("read the outbox table's statistics: %w", err)
	}
	n, err = strconv.ParseInt(string(row[0]), 10, 64)
	return n, string(row[1]) == "t", err
}
