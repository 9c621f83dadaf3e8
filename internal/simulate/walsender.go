package simulate

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
)

// walsender is the server process of a connection that streams: XLogSendLogical and
// WalSndLoop in PostgreSQL's walsender.c. A goroutine reads the client's status
// updates, another decodes and sends.
type walsender struct {
	s      *postgres
	host   *host
	link   *link
	pid    uint32
	copied bool // it streams from a copy of the slot
	// from is the position from which on transactions are sent.
	from pglogrepl.LSN

	// Of the sending goroutine.
	sent     pglogrepl.LSN // sentPtr: the end of the last record that was decoded
	fresh    bool          // something has happened since the last keepalive
	next     int           // of postgres.log
	relation bool          // the table was described
	pinged   bool

	mu        sync.Mutex
	flush     pglogrepl.LSN // as the client said last
	lastReply time.Time
	requested bool // the client wants an answer
	replied   bool
	busyUntil time.Time // it decodes a large transaction of others, and answers nothing
	ended     bool
	woken     chan struct{}
}

// streamFrom starts to send. The caller holds postgres.mu.
func (s *postgres) streamFrom(l *link, pid uint32, start pglogrepl.LSN) *walsender {
	w := s.copyFrom(l, pid, start)
	w.copied = false
	s.slot.sender = w
	return w
}

// copyFrom starts to send from a copy of the slot. The caller holds postgres.mu, so that
// the sender has not begun.
func (s *postgres) copyFrom(l *link, pid uint32, start pglogrepl.LSN) *walsender {
	w := &walsender{s: s, host: s.host, link: l, pid: pid, copied: true, from: max(start, s.slot.confirmed), lastReply: time.Now(), woken: make(chan struct{}, 1)}
	w.sent = s.slot.confirmed
	restart := s.restart()
	for w.next < len(s.log) && s.log[w.next].end <= restart {
		w.next++
	}
	s.w.servers.Go(w.receive)
	s.w.servers.Go(w.send)
	return w
}

// end ends the process, for a reason that the history tells.
func (w *walsender) end(why string) {
	w.mu.Lock()
	first := !w.ended
	w.ended = true
	w.mu.Unlock()
	if !first {
		return
	}
	w.s.update(func() {
		if slot := w.host.slot; slot != nil && slot.sender == w {
			slot.sender = nil
		}
	})
	w.s.w.note("server: walsender %d ended: %s", w.pid, why)
	_ = w.link.server.Close()
	wake(w.woken)
}

func (w *walsender) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended
}

// receive takes the client's status updates.
func (w *walsender) receive() {
	head, body := make([]byte, 5), make([]byte, 64)
	for {
		if _, err := io.ReadFull(w.link.server, head); err != nil {
			w.end("client gone: " + err.Error())
			return
		}
		n := int(binary.BigEndian.Uint32(head[1:])) - 4
		if head[0] != 'd' || n < 1 || n > len(body) {
			w.end("the client ended the stream")
			return
		}
		if _, err := io.ReadFull(w.link.server, body[:n]); err != nil {
			w.end("client gone: " + err.Error())
			return
		}
		switch body[0] {
		case 'r':
			w.status(body)
		}
	}
}

// status takes one status update.
func (w *walsender) status(body []byte) {
	w.mu.Lock()
	busy := time.Until(w.busyUntil)
	w.mu.Unlock()
	time.Sleep(busy) // it is read when the process has time for it
	if w.link.done() {
		return // by a server that is gone
	}
	written, flushed, applied := lsnAt(body, 1), lsnAt(body, 9), lsnAt(body, 17)
	w.s.mu.Lock()
	end := w.s.flushedBy(w.host)
	var has pglogrepl.LSN
	if w.host.slot != nil {
		has = w.host.slot.confirmed
	}
	w.s.mu.Unlock()
	if !w.copied {
		w.s.w.verifier.told(written, flushed, applied, has, end)
	}
	w.mu.Lock()
	w.flush, w.lastReply, w.replied = flushed, time.Now(), true
	w.requested = w.requested || body[33] != 0
	w.mu.Unlock()
	w.s.confirm(w, flushed)
	wake(w.woken)
}

func lsnAt(b []byte, i int) pglogrepl.LSN { return pglogrepl.LSN(binary.BigEndian.Uint64(b[i:])) }

// send decodes and sends, until the connection or the server ends.
func (w *walsender) send() {
	for !w.over() {
		w.work()
		w.s.mu.Lock()
		changed := w.s.changed
		var rec record
		more := w.next < len(w.s.log) && !((w.s.synchronized || w.s.standby) && w.s.log[w.next].end > w.host.replicated)
		if more {
			rec = w.s.log[w.next]
			w.next++
		}
		w.s.mu.Unlock()
		if more {
			if err := w.decode(&rec); err != nil {
				w.end(err.Error())
				return
			}
			w.sent, w.fresh = rec.end, true
			continue
		}
		if !w.idle(changed) {
			return
		}
	}
}

// work is what keeps the process from sending and answering.
func (w *walsender) work() {
	w.mu.Lock()
	busy := time.Until(w.busyUntil)
	w.mu.Unlock()
	time.Sleep(busy)
}

// decode sends what a record means to the client.
func (w *walsender) decode(rec *record) error {
	now := time.Now()
	var b []byte
	switch {
	case rec.begin < w.from:
		return nil // SnapBuildXactNeedsSkip
	case rec.stray != "":
		b = frame(b, rec.begin, now, logicalMessage(false, rec.begin, rec.stray))
	case rec.empty && w.s.empties:
		b = frame(b, rec.begin, now, beginMessage(rec.begin, rec.committed, 1))
		b = frame(b, rec.end, now, commitMessage(rec.begin, rec.end, rec.committed))
	case rec.tx != nil:
		tx := rec.tx
		b = frame(b, tx.first, now, beginMessage(tx.commit, tx.committedAt, tx.xid))
		for _, r := range tx.rows {
			if r.message {
				b = frame(b, r.lsn, now, logicalMessage(true, r.lsn, r.content()))
				continue
			}
			if !w.relation {
				b, w.relation = frame(b, r.lsn, now, relationMessage()), true
			}
			if b = frame(b, r.lsn, now, insertMessage(r)); len(b) >= w.s.w.o.chunk {
				if err := w.flushOut(b); err != nil {
					return err
				}
				time.Sleep(w.s.w.o.pace)
				w.work()
				b, now = b[:0], time.Now()
			}
		}
		b = frame(b, tx.end, now, commitMessage(tx.commit, tx.end, tx.committedAt))
	}
	if len(b) == 0 {
		return nil
	}
	return w.flushOut(b)
}

// flushOut writes to the client: ProcessPendingWrites. It waits while the client does
// not read, but not longer than wal_sender_timeout after its last status update.
func (w *walsender) flushOut(b []byte) error {
	for {
		if w.s.timeout > 0 {
			w.mu.Lock()
			_ = w.link.server.SetWriteDeadline(w.lastReply.Add(w.s.timeout))
			w.mu.Unlock()
		}
		_, err := w.link.server.Write(b)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		w.mu.Lock()
		silent := time.Since(w.lastReply)
		w.mu.Unlock()
		if silent >= w.s.timeout {
			return errTimedOut
		}
	}
}

var errTimedOut = errors.New("terminating walsender process due to replication timeout")

// idle does what a process does that has sent everything, until there is more. It
// returns false when the process has ended.
func (w *walsender) idle(changed <-chan struct{}) bool {
	w.mu.Lock()
	flush, last := w.flush, w.lastReply
	requested := w.requested
	w.requested = false
	if w.replied {
		w.pinged, w.replied = false, false
	}
	w.mu.Unlock()
	now := time.Now()
	switch {
	case w.s.timeout > 0 && now.Sub(last) >= w.s.timeout:
		w.end(errTimedOut.Error())
		return false
	case requested || flush < w.sent && !w.pinged && w.fresh:
		// "Before sleeping, we send a ping containing the flush location": WalSndWaitForWal.
		w.fresh = false
		return w.ping(false)
	case w.s.timeout > 0 && !w.pinged && now.Sub(last) >= w.s.timeout/2:
		w.pinged = true
		return w.ping(true)
	}
	var timer <-chan time.Time
	if w.s.timeout > 0 {
		next := last.Add(w.s.timeout)
		if half := last.Add(w.s.timeout / 2); !w.pinged && half.After(now) {
			next = half
		}
		t := time.NewTimer(next.Sub(now))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-changed:
	case <-w.woken:
	case <-timer:
	}
	w.fresh = true
	return true
}

func (w *walsender) ping(reply bool) bool {
	if err := w.flushOut(keepalive(nil, w.sent, time.Now(), reply)); err != nil {
		w.end(err.Error())
		return false
	}
	return true
}
