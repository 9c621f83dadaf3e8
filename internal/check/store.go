package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"outboxd/internal/finding"
	"outboxd/internal/replication"
	"outboxd/offsets"
)

// store decides as a start would, and starts nothing.
type store struct {
	o      Options
	survey *replication.Survey
}

const position = "stored position"

// check reads the stored position, and compares it with the server and the slot. The
// slot was read before, and the end of the WAL is read after it: see offsets.Decide.
func (s *store) check(ctx context.Context) (found []finding.Finding) {
	stored, where, found, err := s.load(ctx)
	if err != nil {
		what, fix := cut(err)
		return append(found, finding.Finding{Level: finding.Fail, Subject: position, Text: what, Fix: fix})
	}
	server, err := s.survey.Server(ctx)
	if err != nil {
		return append(found, finding.Unchecked(position, fmt.Sprintf("%s has %s, and what the server has is not known: %v", where, text(stored), err)))
	}
	if stored == nil && server.Slot == nil {
		return append(found, finding.Ok(position, "none, and no slot: the first start makes the slot"))
	}
	if begun, is := unfinished(stored, server, s.o.Source.Backfill); is {
		return append(found, begun)
	}
	start, err := offsets.Resume(stored, server)
	for _, e := range s.o.Elsewhere {
		if err != nil || stored != nil {
			break
		}
		if err = e.Refuse(ctx, server, start); err != nil && !errors.As(err, new(*offsets.RefusedError)) {
			found = append(found, finding.Unchecked(e.Name, "whether it has a newer position of the slot: "+err.Error()))
			err = nil
		}
	}
	var no *offsets.RefusedError
	switch {
	case errors.As(err, &no) && errors.Is(err, offsets.ErrSlotAhead) && server.Slot.Active:
		found = append(found, finding.Ok(position, "another process is streaming, and stores it"))
	case errors.As(err, &no):
		return append(found, refused(position, no))
	case err != nil:
		what, fix := cut(err)
		return append(found, finding.Finding{Level: finding.Warn, Subject: position, Text: what, Fix: fix})
	default:
		found = append(found, finding.Ok(position, fmt.Sprintf("%s; a start resumes at %s", where, start)))
	}
	var was offsets.Outbox
	if stored != nil && stored.SystemID == server.SystemID {
		was = stored.Outbox
	}
	const published = "published since"
	warning, err := s.survey.Verify(ctx, was)
	switch {
	case err != nil:
		what, fix := replication.Describe(err)
		found = append(found, finding.Finding{Level: finding.Fail, Subject: published, Text: what, Fix: fix, SQL: replication.RemedySQL(err)})
	case warning != "":
		found = append(found, finding.Finding{Level: finding.Warn, Subject: published, Text: warning})
	}
	return found
}

// unfinished is the finding of a backfill that the next start begins again. Any other
// position is judged as such.
func unfinished(stored *offsets.Position, server offsets.Server, backfill bool) (finding.Finding, bool) {
	if stored == nil || !stored.Backfill || !backfill || stored.SystemID != server.SystemID {
		return finding.Finding{}, false
	}
	return finding.Ok(position, "a backfill was begun and nothing of it is published; a start publishes all rows"), true
}

func text(p *offsets.Position) string {
	if p == nil {
		return "none"
	}
	return p.String()
}

// load reads the stored position, nil when there is none, and says where it is.
func (s *store) load(ctx context.Context) (p *offsets.Position, where string, found []finding.Finding, err error) {
	switch {
	case s.o.Positions != nil:
		where = fmt.Sprintf("topic %q (delivery.topic)", s.o.PositionsTopic)
		p, exists, err := s.o.Positions.Inspect(ctx)
		switch {
		case err != nil:
			return nil, where, nil, err
		case !exists:
			where += ", which does not exist"
		case p == nil:
			where += ", which has no position of this slot"
		default:
			where += " has " + p.String()
		}
		return p, where, nil, nil
	case s.o.File != "":
		f := file(s.o.File)
		p, err = offsets.NewFileStore(s.o.File).Load(ctx)
		where = s.o.File + " (delivery.file)"
		if p == nil {
			where += ", which does not exist"
		} else {
			where += " has " + p.String()
		}
		return p, where, []finding.Finding{f}, err
	}
	return nil, "the slot's own", nil, nil
}

// file tells whether a position can be written: beside the file, from where it is
// renamed.
func file(path string) finding.Finding {
	const subject = "delivery.file"
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return finding.Finding{Level: finding.Fail, Subject: subject, Text: fmt.Sprintf("folder %s does not exist", dir), Fix: "make it", Command: "mkdir -p " + quote(dir)}
	case err != nil:
		return finding.Finding{Level: finding.Fail, Subject: subject, Text: err.Error(), Fix: "let outboxd's user reach the folder"}
	case !info.IsDir():
		return finding.Finding{Level: finding.Fail, Subject: subject, Text: dir + " is not a folder", Fix: "name a file in a folder by delivery.file"}
	}
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return finding.Finding{Level: finding.Fail, Subject: subject, Text: fmt.Sprintf("folder %s: %v for user %d, who runs this", dir, err, os.Geteuid()),
			Fix: "let outboxd's user write to the folder; a position is written to a new file there and renamed", Command: fmt.Sprintf("chown %d %s", os.Geteuid(), quote(dir))}
	}
	return finding.Ok(subject, "folder "+dir+" can be written to")
}

// quote makes one word of a shell command.
func quote(word string) string {
	if word != "" && !strings.ContainsFunc(word, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._/:=,@+-", r))
	}) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// cut splits an error of the form "reason; do this".
func cut(err error) (what, fix string) {
	what, fix, _ = strings.Cut(err.Error(), "; ")
	return what, fix
}
