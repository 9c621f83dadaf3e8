package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"outboxd/internal/check"
	"outboxd/internal/config"
	"outboxd/internal/finding"
	"outboxd/internal/status"
	"outboxd/internal/walheld"
)

// At SIGHUP the level of the log is that of the file, and nothing else changes; with a
// file that cannot be used it stays.
func TestLevelAtSIGHUP(t *testing.T) {
	defer zerolog.SetGlobalLevel(zerolog.GlobalLevel())
	var out bytes.Buffer
	log := zerolog.New(&out)
	if err := setLevel("info"); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		level string
		err   error
	}
	answers := make(chan answer)
	b := &beside{log: log, reload: func() (*config.Config, error) {
		a := <-answers
		return &config.Config{Log: config.Log{Level: a.level}}, a.err
	}}
	hangups := make(chan os.Signal)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.reloadLevel(ctx, hangups) }()
	for _, step := range []struct {
		answer
		want string
	}{{answer{"debug", nil}, "debug"}, {answer{"", errors.New("outboxd.yaml:3: unknown key")}, "debug"}, {answer{"error", nil}, "error"}} {
		for range 2 { // the second is taken when the first was carried out
			select {
			case hangups <- syscall.SIGHUP:
			case <-time.After(10 * time.Second):
				t.Fatal("it takes no signal")
			}
			answers <- step.answer
		}
		if got := zerolog.GlobalLevel().String(); got != step.want {
			t.Errorf("after %v the level is %s", step.answer, got)
		}
	}
	cancel()
	<-done
	if text := out.String(); !strings.Contains(text, `"log_level":"error"`) || !strings.Contains(text, "outboxd.yaml:3: unknown key") {
		t.Errorf("the log: %s", text)
	}
	for _, bad := range []string{"", "loud", "fatal", "disabled", "DEBUG "} {
		if err := setLevel(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// What the check of a start warns of is logged and kept. What the start itself has
// judged is not judged again, and what nobody looked at is no news.
func TestCheckOfAStart(t *testing.T) {
	var out bytes.Buffer
	st := status.New(time.Minute)
	b := &beside{st: st, log: zerolog.New(&out)}
	b.told(check.Report{Groups: []check.Group{
		{Name: "PostgreSQL", Findings: []finding.Finding{
			finding.Ok("server", "PostgreSQL 17"),
			{Level: finding.Warn, Subject: "max_slot_wal_keep_size", Text: "is unlimited", Fix: "set it", SQL: []string{"ALTER SYSTEM SET max_slot_wal_keep_size = '100GB'"}},
			{Level: finding.Fail, Subject: "role", Text: "no place for another walsender"},
			finding.Unchecked("partitions", "no right"),
		}},
		{Name: "Kafka", Findings: []finding.Finding{{Level: finding.Fail, Subject: `topic "orders"`, Text: "does not exist", Fix: "create it", Command: "kafka-topics.sh --create"}}},
	}})
	text := out.String()
	for _, want := range []string{`"check":"max_slot_wal_keep_size","warning":"is unlimited","fix":"set it","sql":["ALTER SYSTEM`, `"check":"topic \"orders\"","warning":"does not exist"`, `"warnings":2`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in:\n%s", want, text)
		}
	}
	if strings.Count(text, "\n") != 3 {
		t.Errorf("the log:\n%s", text)
	}
	if c := st.Report().Check; c == nil || len(c.Warnings) != 2 || c.Warnings[1].Check != `topic "orders"` {
		t.Errorf("/status: %+v", c)
	}
}

// A process that stands by or waits checks nothing: it would ask PostgreSQL for
// connections that another process needs.
func TestOnlyWhoStreamsChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := status.New(time.Minute)
		st.StandBy(errors.New("the slot is in use"))
		var out bytes.Buffer
		b := &beside{st: st, log: zerolog.New(&out)} // without a configuration a check would panic
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		b.check(ctx)
		if out.Len() > 0 || st.Report().Check != nil {
			t.Errorf("%s", out.String())
		}
	})
}

func TestStatusLine(t *testing.T) {
	yes, no, held := true, false, int64(3<<30)
	for want, r := range map[string]status.Report{
		"waiting, not ready: no broker answers":                          {Role: "waiting", Ready: &no, Reason: "no broker answers", Process: &status.Process{}},
		"standby: the slot is in use":                                    {Role: "standby", Ready: &yes, Reason: "the slot is in use", Process: &status.Process{}},
		"streaming, 967 events/s":                                        {Role: "streaming", Ready: &yes, Process: &status.Process{EventsRate: 967.2}},
		"streaming, 0 events/s, WAL held 3.0 GiB":                        {Role: "streaming", Ready: &yes, Process: &status.Process{}, Retained: &held, HeldBy: walheld.CauseNothing, Why: walheld.Nothing},
		"streaming, 0 events/s, WAL held 3.0 GiB: a transaction is open": {Role: "streaming", Ready: &yes, Process: &status.Process{}, Retained: &held, HeldBy: walheld.CauseTransaction, Why: "a transaction is open"},
	} {
		if got := statusLine(r); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
