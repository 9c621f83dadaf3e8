package replication

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
)

// Timeline follows the timeline of a standby. A stream from it goes on when it is
// promoted, or when its own primary is replaced, and does not tell of either: what
// comes then is of another timeline than the stream began on, and a position has to
// say which. It is used by one goroutine at a time; nil follows nothing.
type Timeline struct {
	addr net.Addr
	o    Options
	// pg is a connection of its own, since the one that streams cannot be asked; nil
	// until it is needed.
	pg *pgconn.PgConn
}

// FollowTimeline returns nil for a primary, whose timeline never changes while it
// runs. The caller closes it.
func (c *Conn) FollowTimeline() *Timeline {
	if !c.standby {
		return nil
	}
	return &Timeline{addr: c.sql.Conn().RemoteAddr(), o: c.o}
}

// Now returns the timeline of what the server has sent until the call or of what it
// sends later. All that was sent before is of its history too, if same: it was asked over
// the connection by which it was asked before, and has run since.
func (t *Timeline) Now(ctx context.Context) (timeline int32, same bool, err error) {
	same = t.pg != nil
	if !same {
		pg, err := connectBeside(ctx, t.addr, t.o, replicationConnection)
		if err != nil {
			return 0, false, fmt.Errorf("ask for the timeline: %w", err)
		}
		t.pg = pg
	}
	// pg_control_checkpoint still names the old one after a promotion.
	system, err := identifySystem(ctx, t.pg)
	if err != nil {
		t.Close()
		return 0, false, fmt.Errorf("ask for the timeline: %w", err)
	}
	return system.Timeline, same, nil
}

// Close ends the connection.
func (t *Timeline) Close() {
	if t != nil && t.pg != nil {
		closeSoon(t.pg)
		t.pg = nil
	}
}

// switches reads where the server's earlier timelines ended. Without it a
// position of an earlier timeline is refused, so an error only loses that.
func (c *Conn) switches(ctx context.Context) map[int32]pglogrepl.LSN {
	if c.system.Timeline <= 1 {
		return nil
	}
	history, err := ask(ctx, c.pg, func(ctx context.Context) (pglogrepl.TimelineHistoryResult, error) {
		return pglogrepl.TimelineHistory(ctx, c.pg, c.system.Timeline)
	})
	if err != nil {
		c.o.Log.Warn().Err(err).Int32("timeline", c.system.Timeline).Msg("the timeline's history cannot be read")
		return nil
	}
	return parseHistory(string(history.Content))
}

// parseHistory reads a timeline history file: a line for each earlier timeline,
// with its number and the position at which it was left.
func parseHistory(content string) map[int32]pglogrepl.LSN {
	switches := make(map[int32]pglogrepl.LSN)
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		timeline, err := strconv.ParseInt(fields[0], 10, 32)
		if err != nil {
			continue // a comment
		}
		if lsn, err := pglogrepl.ParseLSN(fields[1]); err == nil {
			switches[int32(timeline)] = lsn
		}
	}
	return switches
}
