package connector

import (
	"context"
	"fmt"
)

// followed is the timeline of the standby that a session streams from. A position has to
// say of which timeline it is, and a stream does not: it goes on when the standby is
// promoted, or gets another primary.
//
// A promotion leaves connections alone. So a timeline that has changed is that of what
// was streamed only if the connection that says so is as old: behind a new one can be a
// server that pg_rewind has made anew meanwhile, which has other events at the same places.
type followed struct {
	Timeline
	seen int32 // 0: nothing yet
	lost error // why nobody knows any more
}

// Now returns the timeline of what was streamed, or an error if that is not known: what is
// not stored by then is published again.
func (f *followed) Now(ctx context.Context) (int32, error) {
	if f.lost != nil {
		return 0, f.lost
	}
	now, same, err := f.Timeline.Now(ctx)
	if err != nil {
		return 0, err
	}
	if f.seen != 0 && now != f.seen && !same {
		f.lost = fmt.Errorf("the standby is on timeline %d, and was on timeline %d when it was asked over an earlier connection; the session begins again", now, f.seen)
		return 0, f.lost
	}
	f.seen = now
	return now, nil
}

// follow begins to follow the timeline of a standby, which is seen, or not known yet: 0.
// Where to start is decided on what a connection says that is older than this; if the
// timeline has changed since, that is to be decided again.
func (p *Connector) follow(ctx context.Context, conn Connection, seen int32) error {
	timeline := conn.FollowTimeline()
	if timeline == nil {
		return nil
	}
	p.timeline = &followed{Timeline: timeline, seen: seen}
	if _, err := p.timeline.Now(ctx); err != nil {
		p.unfollow()
		return err
	}
	return nil
}

// unfollow ends follow.
func (p *Connector) unfollow() {
	if p.timeline != nil {
		p.timeline.Close()
		p.timeline = nil
	}
}
