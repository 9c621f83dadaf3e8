package retention

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
)

// Rows are found without an index: the table is read part by part, in the order in which
// it is stored, and of each part it is remembered when the first of its rows is due. A
// part is read again then, or when a row that came into it after the last look can be
// due, which is keep later. So a table is read about once in keep, and not with each run.

const (
	// chunkBlocks is the size of a part, in pages: 1 MiB of PostgreSQL's usual ones.
	chunkBlocks = 128
	// blocksAtOnce is how many pages one statement reads at most. It reads within a part.
	blocksAtOnce = chunkBlocks
	// queueLimit is how many rows are read before the first of them is removed. All of
	// them wait for one confirmation.
	queueLimit = 50_000
)

// never is the time of a part without rows.
const never = math.MaxInt64

// leaf is what is remembered of a table with rows.
type leaf struct {
	file   string // as it was; another one has its rows elsewhere
	chunks []chunk
}

// chunk is what is remembered of a part. Times are the server's, in Unix milliseconds.
type chunk struct {
	due    int64 // when it is to be read again
	oldest int64 // the time of its oldest row
	after  int64 // oldest, once what was read is removed
	looked bool
	below  bool // it has rows from before the slot
}

// row is where a row is, and who inserted it.
type row struct {
	block  uint32
	offset uint16
	xmin   uint32
}

// queue are rows of one leaf that were read and not removed yet.
type queue struct {
	leaf  relation
	state *leaf
	rows  []row
	lsn   pglogrepl.LSN // the commit records of all of them lie before it
}

// removeRows is one run of modes Delete and Archive.
func (r *Retention) removeRows(ctx context.Context, s session, p *plan) error {
	trouble := &trouble{}
	there := make(map[string]bool)
	for _, l := range p.leaves {
		there[l.oid] = true
		state := r.leaves[l.oid]
		if state == nil || state.file != l.file {
			state = &leaf{file: l.file}
			r.leaves[l.oid] = state
		}
		if err := r.removeFrom(ctx, s, p, l, state, trouble); err != nil {
			return err
		}
	}
	for oid := range r.leaves {
		if !there[oid] {
			delete(r.leaves, oid)
		}
	}
	if err := r.takeBack(ctx, p); err != nil {
		return err
	}
	return trouble.err()
}

// removeFrom removes what is due from one leaf.
func (r *Retention) removeFrom(ctx context.Context, s session, p *plan, l relation, state *leaf, t *trouble) error {
	blocks := (l.size + p.block - 1) / p.block
	n := int((blocks + chunkBlocks - 1) / chunkBlocks)
	if n < len(state.chunks) {
		state.chunks = state.chunks[:n]
	}
	for len(state.chunks) < n {
		state.chunks = append(state.chunks, chunk{oldest: never})
	}
	q := &queue{leaf: l, state: state}
	timeless := 0
	for i := range state.chunks {
		if state.chunks[i].due > time.Now().UnixMilli() {
			continue
		}
		first := int64(i) * chunkBlocks
		without, err := r.readChunk(ctx, p, q, &state.chunks[i], first, min(first+chunkBlocks, blocks))
		if err != nil {
			q.again(q.rows)
			return err
		}
		timeless += without
		if len(q.rows) >= queueLimit {
			if err := r.flush(ctx, s, p, q, t); err != nil {
				return err
			}
		}
	}
	if timeless > 0 && !r.timeless {
		r.timeless = true
		r.log.Warn().Str("table", l.name).Int("rows", timeless).Str("column", r.o.Timestamp).
			Msg("rows without a time stay in the table: their column is NULL or holds no time, and track_commit_timestamp is off; delete them, or give them one")
	}
	return r.flush(ctx, s, p, q, t)
}

// readChunk reads one part, and queues its rows that may go. It returns how many have no
// time.
func (r *Retention) readChunk(ctx context.Context, p *plan, q *queue, c *chunk, first, end int64) (timeless int, err error) {
	c.oldest, c.after, c.below = never, never, false
	now, due := int64(0), int64(never)
	for first < end {
		last := min(end, first+int64(r.blocks.now))
		started := time.Now()
		found, err := r.read(ctx, p, q.leaf, first, last)
		if timedOut(err) && r.blocks.now > 1 {
			r.blocks.timedOut()
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read rows of %s: %w", q.leaf.name, err)
		}
		r.blocks.worked()
		q.rows = append(q.rows, found.rows...)
		q.lsn = max(q.lsn, found.lsn)
		c.oldest, c.after = min(c.oldest, found.oldest), min(c.after, found.after)
		timeless += found.timeless
		due, c.below = min(due, found.due), c.below || found.below
		now = max(now, found.now)
		first = last
		if !rest(ctx, time.Since(started)/2) {
			return 0, ctx.Err()
		}
	}
	c.looked = true
	// The server's clock may be another than ours, and does not count the time that
	// passes: what is due is as long from now as it is there.
	wait := r.o.Keep.Milliseconds()
	if due != never {
		wait = min(wait, max(0, due+r.o.Keep.Milliseconds()-now))
	}
	c.due = time.Now().UnixMilli() + wait
	return timeless, nil
}

// found is what one statement has read. Times are in Unix milliseconds.
type found struct {
	rows     []row // that may go
	lsn      pglogrepl.LSN
	now      int64
	oldest   int64 // of all rows
	after    int64 // of those that may not go
	due      int64 // of those that may go later
	timeless int
	below    bool
}

// read reads some pages of a leaf.
func (r *Retention) read(ctx context.Context, p *plan, l relation, first, end int64) (f found, err error) {
	rows, err := r.conn.Rows(ctx, r.readSQL(p, l, first, end))
	if err != nil {
		return f, err
	}
	answer := rows[0]
	walEnd, err := pglogrepl.ParseLSN(answer[0])
	if err != nil {
		return f, err
	}
	f.lsn = p.commitEnd(walEnd)
	if f.rows, err = parseRows(answer[2], answer[3]); err != nil {
		return f, err
	}
	numbers := []struct {
		to   *int64
		text string
	}{{&f.now, answer[1]}, {&f.oldest, answer[4]}, {&f.after, answer[5]}, {&f.due, answer[6]}}
	for _, n := range numbers {
		if *n.to = never; n.text == "" {
			continue
		}
		if *n.to, err = strconv.ParseInt(n.text, 10, 64); err != nil {
			return f, err
		}
	}
	f.below = answer[8] == "t"
	f.timeless, err = strconv.Atoi(answer[7])
	return f, err
}

// readSQL is the statement of read.
func (r *Retention) readSQL(p *plan, l relation, first, end int64) string {
	name := l.name
	if !l.may {
		name = p.root.name // through which it may
	}
	// The end of the WAL is asked by a function that runs while the snapshot is there, and
	// so after it was taken.
	return fmt.Sprintf(`WITH r AS MATERIALIZED (SELECT c, x, at, at <= now() - interval '%d ms' AS old, fresh FROM
				(SELECT t.ctid AS c, t.xmin AS x, %s AS at, %s AS fresh FROM %s t, (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next) now WHERE %s AND t.tableoid = %s) t)
		SELECT pg_current_wal_insert_lsn(), (extract(epoch FROM now()) * 1000)::bigint,
			string_agg(c::text, ' ') FILTER (WHERE old AND fresh), string_agg(x::text, ' ') FILTER (WHERE old AND fresh),
			(extract(epoch FROM min(at) FILTER (WHERE isfinite(at))) * 1000)::bigint,
			(extract(epoch FROM min(at) FILTER (WHERE isfinite(at) AND NOT (old AND fresh))) * 1000)::bigint,
			(extract(epoch FROM min(at) FILTER (WHERE isfinite(at) AND NOT old)) * 1000)::bigint,
			count(*) FILTER (WHERE at IS NULL), count(*) FILTER (WHERE NOT fresh) > 0 FROM r`,
		r.o.Keep.Milliseconds(), p.at, p.fresh(), name, r.pages(p, first, end), l.oid)
}

// pages is the condition that takes the rows of some pages by a scan of these alone.
func (r *Retention) pages(p *plan, first, end int64) string {
	if r.conn.Version >= 140000 {
		return fmt.Sprintf("t.ctid >= '(%d,0)'::tid AND t.ctid < '(%d,0)'::tid", first, end)
	}
	// Which has no scan of a range: all places where a row can be. A page has a header of
	// 24 bytes, a row takes 4 for its pointer and 24 at least.
	return fmt.Sprintf("t.ctid = ANY (ARRAY(SELECT format('(%%s,%%s)', b, o)::tid FROM generate_series(%d, %d) b, generate_series(1, %d) o))",
		first, end-1, (p.block-24)/28)
}

// commitEnd turns the end of the WAL into the least position that has the same records
// before it. Where a page begins, the end is behind its header, and what is sent of the
// WAL ends before it: on an idle server, for ever.
func (p *plan) commitEnd(lsn pglogrepl.LSN) pglogrepl.LSN {
	const page, short, long = 8192, 24, 40 // XLOG_BLCKSZ; SizeOfXLogShortPHD, SizeOfXLogLongPHD
	switch at := int64(lsn); {
	case at%p.segment == long:
		return lsn - long
	case at%page == short && at%p.segment > page:
		return lsn - short
	}
	return lsn
}

// parseRows reads ctids such as (0,1) and xmins, each separated by spaces.
func parseRows(ctids, xmins string) ([]row, error) {
	if ctids == "" {
		return nil, nil
	}
	places, inserters := strings.Fields(ctids), strings.Fields(xmins)
	if len(places) != len(inserters) {
		return nil, fmt.Errorf("%d ctids and %d xmins", len(places), len(inserters))
	}
	rows := make([]row, len(places))
	for i, place := range places {
		block, offset, ok := strings.Cut(strings.Trim(place, "()"), ",")
		b, err := strconv.ParseUint(block, 10, 32)
		if err != nil || !ok {
			return nil, fmt.Errorf("ctid %q", place)
		}
		o, err := strconv.ParseUint(offset, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("ctid %q", place)
		}
		x, err := strconv.ParseUint(inserters[i], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("xmin %q", inserters[i])
		}
		rows[i] = row{uint32(b), uint16(o), uint32(x)}
	}
	return rows, nil
}
