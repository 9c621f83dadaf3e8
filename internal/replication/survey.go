package replication

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"outboxd/internal/finding"
	"outboxd/offsets"
)

// Survey looks at all that a start looks at, by the same queries and judgements. It
// goes on after the first fault and changes nothing: it makes no slot and no
// publication, ends nobody's server process, and does not stream. It belongs to one
// goroutine.
type Survey struct {
	o            Options
	c            *Conn // nil: not reached
	meansStandby bool
	settings     settings
	replicates   bool  // the replication connection is there
	look         *look // nil: not looked, or without a table
	slot         *offsets.Slot
	slotKnown    bool
	halfMade     bool
	unfit        bool // the publication, so that a start would not come to Verify
}

// NewSurvey returns a survey that is not connected.
func NewSurvey(o Options) *Survey { return &Survey{o: o} }

// Close ends the connections.
func (s *Survey) Close() {
	if s.c != nil {
		s.c.Close()
	}
}

// SurveyStep looks at one thing.
type SurveyStep struct {
	Subject string
	// Limit is how long it may take, 0 for the caller's default.
	Limit time.Duration
	Look  func(context.Context) []finding.Finding
}

// unreached is why a step did not look.
const unreached = "PostgreSQL was not reached"

// Steps are the steps of the survey. They are to be taken in their order.
func (s *Survey) Steps() []SurveyStep {
	steps := []SurveyStep{{"server", 4 * dialTimeout, s.server}}
	add := func(subject string, look func(context.Context) []finding.Finding) {
		steps = append(steps, SurveyStep{subject, 0, func(ctx context.Context) []finding.Finding {
			if s.c == nil || s.c.sql.IsClosed() {
				return []finding.Finding{finding.Unchecked(subject, unreached)}
			}
			return look(ctx)
		}})
	}
	add("role", s.role)
	add("wal_level", s.walLevel)
	if s.o.Table != "" {
		add("table", s.table)
		add("columns", s.columns)
		add("partitions", s.parts)
	}
	add("slot", s.surveySlot)
	add("publication", s.publication)
	if s.o.Table != "" {
		add("origin", s.origin)
	}
	add("free slots", s.free)
	add("synchronous_standby_names", s.synchronousNames)
	add("time-outs", s.timeouts)
	add("max_slot_wal_keep_size", s.keepSize)
	return steps
}

// fail is the finding of an error with which a start would end, or which it would
// meet again and again.
func fail(subject string, err error) finding.Finding {
	what, fix := Describe(err)
	return finding.Finding{Level: finding.Fail, Subject: subject, Text: what, Fix: fix, SQL: RemedySQL(err)}
}

func warn(subject, text, fix string, sql ...string) finding.Finding {
	return finding.Finding{Level: finding.Warn, Subject: subject, Text: text, Fix: fix, SQL: sql}
}

func one(f finding.Finding) []finding.Finding { return []finding.Finding{f} }

// server connects, and judges what answers.
func (s *Survey) server(ctx context.Context) (found []finding.Finding) {
	const subject = "server"
	c, meansStandby, err := open(ctx, s.o)
	if err != nil {
		return one(fail(subject, err))
	}
	s.c, s.meansStandby = c, meansStandby
	if s.settings, err = c.readSettings(ctx); err != nil {
		return one(fail(subject, err))
	}
	for _, err := range []error{c.unfitVersion(), c.unfitRole(meansStandby), c.unfitMessages(), c.unfitOrigin()} {
		if err != nil {
			found = append(found, fail(subject, err))
		}
	}
	if warning := plaintext(c.sql.Conn()); warning != "" {
		text, fix, _ := strings.Cut(warning, "; ")
		found = append(found, warn(subject, text, fix))
	}
	if found != nil {
		return found
	}
	encrypted := "not encrypted"
	if secure, ok := c.sql.Conn().(*tls.Conn); ok {
		encrypted = tls.VersionName(secure.ConnectionState().Version)
	}
	kind := ""
	if c.standby {
		kind = ", a standby"
	}
	return one(finding.Ok(subject, fmt.Sprintf("PostgreSQL %s%s at %s, database %s, %s",
		c.sql.ParameterStatus("server_version"), kind, c.sql.Conn().RemoteAddr(), s.settings.database, encrypted)))
}

// role opens a replication connection, which proves what the catalog cannot say:
// that pg_hba.conf lets it in.
func (s *Survey) role(ctx context.Context) []finding.Finding {
	const subject = "role"
	c := s.c
	row, err := c.row(ctx, `SELECT current_user, rolsuper OR rolreplication,
		EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication'),
		EXISTS (SELECT FROM pg_roles m WHERE m.rolname = 'rds_replication' AND pg_has_role(current_user, m.oid, 'MEMBER'))
		FROM pg_roles WHERE rolname = current_user`)
	if err != nil {
		return one(fail(subject, fmt.Errorf("read the role: %w", err)))
	}
	if c.pg, err = c.beside(ctx, replicationConnection, c.encoding); err != nil {
		c.pg = nil
		f := fail(subject, fmt.Errorf("open a replication connection: %w", err))
		switch {
		case sqlState(err) != insufficientPrivilege || row[1] == "t":
		case row[2] == "t":
			f.SQL = []string{"GRANT rds_replication TO " + QuoteIdent(row[0])}
		default:
			f.SQL = []string{"ALTER ROLE " + QuoteIdent(row[0]) + " REPLICATION"}
		}
		return one(f)
	}
	if c.system, err = identifySystem(ctx, c.pg); err != nil {
		if sqlState(err) == syntaxError {
			err = &Error{fmt.Errorf("the connection takes no replication commands: %w", err),
				"a connection pooler answers there: name the PostgreSQL server itself in postgres.dsn, since replication does not pass through a pooler"}
		}
		return one(fail(subject, err))
	}
	s.replicates = true
	right := "has the right to replicate"
	switch {
	case row[3] == "t":
		right = "is a member of rds_replication"
	case row[1] == "t":
		right = "has REPLICATION"
	}
	return one(finding.Ok(subject, row[0], " ", right, ", and a replication connection was let in"))
}

func (s *Survey) walLevel(context.Context) []finding.Finding {
	if err := unfitWALLevel(s.settings.walLevel); err != nil {
		return one(fail("wal_level", err))
	}
	return one(finding.Ok("wal_level", s.settings.walLevel))
}

// synchronousNames tells whether commits wait for outboxd.
func (s *Survey) synchronousNames(ctx context.Context) []finding.Finding {
	const subject = "synchronous_standby_names"
	text, err := s.c.Synchronous(ctx)
	switch {
	case err != nil:
		return one(fail(subject, err))
	case text != "":
		what, fix, _ := strings.Cut(text, "; ")
		return one(warn(subject, what, fix))
	case s.c.standby:
		return one(finding.Ok(subject, "is the primary's matter"))
	}
	return one(finding.Ok(subject, "commits do not wait for outboxd"))
}

// timeouts tells of the role's and the database's own settings, which would end a
// connection that waits.
func (s *Survey) timeouts(ctx context.Context) []finding.Finding {
	const subject = "time-outs"
	rows, err := s.c.rows(ctx, `SELECT DISTINCT c FROM pg_db_role_setting s, unnest(setconfig) c
		WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
		AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = current_user)) ORDER BY 1`)
	if err != nil {
		return one(fail(subject, fmt.Errorf("read the settings of the role and the database: %w", err)))
	}
	var theirs []string
	for _, row := range rows {
		name, _, _ := strings.Cut(row[0], "=")
		if _, ours := ourSettings[name]; ours || newerSettings[name] != 0 {
			theirs = append(theirs, row[0])
		}
	}
	if theirs == nil {
		return one(finding.Ok(subject, "none of the role or the database"))
	}
	return one(finding.Ok(subject, "of the role or the database: ", strings.Join(theirs, ", "), "; outboxd's connections override them"))
}

// keepSize tells whether a slot can fill the disk, and on a standby whether it can
// lose rows.
func (s *Survey) keepSize(ctx context.Context) (found []finding.Finding) {
	const subject = "max_slot_wal_keep_size"
	row, err := s.c.row(ctx, "SELECT current_setting('max_slot_wal_keep_size'), current_setting('hot_standby_feedback')")
	if err != nil {
		return one(fail(subject, err))
	}
	if row[0] == "-1" {
		found = append(found, warn(subject, "is unlimited: while Kafka does not acknowledge, the slot keeps WAL until the disk is full and the database stops",
			"set it to what the disk can spare; a slot that needs more is then lost, and its events are only in the outbox table",
			"ALTER SYSTEM SET max_slot_wal_keep_size = '100GB'", "SELECT pg_reload_conf()"))
	} else {
		found = append(found, finding.Ok(subject, row[0], ": a slot that needs more WAL than this is lost"))
	}
	if s.c.standby && row[1] != "on" {
		found = append(found, warn("hot_standby_feedback", "is off on this standby: the primary removes catalog rows that the slot needs, and the slot is invalidated",
			"turn it on at the standby", "ALTER SYSTEM SET hot_standby_feedback = on", "SELECT pg_reload_conf()"))
	}
	return found
}

// Server returns what the server says of itself and of the slot, for a decision of
// offsets.Resume. It asks anew how far the WAL is durable, so that a position that was
// read just before does not lie behind it. An error says why it is not known.
func (s *Survey) Server(ctx context.Context) (offsets.Server, error) {
	if s.c == nil || !s.replicates {
		return offsets.Server{}, errors.New("there is no replication connection")
	}
	if !s.slotKnown || s.halfMade {
		return offsets.Server{}, errors.New("the slot could not be read")
	}
	server := s.c.server(ctx, s.slot)
	var err error
	server.FlushLSN, err = s.c.Flushed(ctx)
	return server, err
}

// Verify compares what is published with what is remembered, as a start does. A
// warning is "" or what is no error.
func (s *Survey) Verify(ctx context.Context, was offsets.Outbox) (warning string, err error) {
	if s.look == nil || s.look.table == nil || s.look.publication == nil || s.unfit {
		return "", nil
	}
	s.c.found, s.c.doubt = s.look, nil
	if err := s.c.Verify(ctx, was, s.slot); err != nil {
		return "", err
	}
	if s.c.doubt != nil {
		return replaced, nil
	}
	return "", nil
}

// Facts are what promises depend on.
type Facts struct {
	Reached          bool
	Version          int
	Standby          bool
	Slot             *offsets.Slot // nil: none
	SynchronizedSlot bool          // synchronized_standby_slots names some
	Major            int           // of Version
}

// Facts returns what is known of the server and the slot.
func (s *Survey) Facts(ctx context.Context) Facts {
	if s.c == nil || !s.slotKnown {
		return Facts{}
	}
	f := Facts{Reached: true, Version: s.c.version, Major: s.c.version / 10000, Standby: s.c.standby, Slot: s.slot}
	if f.Version >= 170000 {
		row, err := s.c.row(ctx, "SELECT current_setting('synchronized_standby_slots')")
		f.SynchronizedSlot = err == nil && row[0] != ""
	}
	return f
}
