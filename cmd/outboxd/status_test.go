package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"outboxd/internal/status"
	"outboxd/internal/walheld"
)

// While PostgreSQL does not answer, the process still tells what it knows; what
// nobody knows is not made up.
func TestStatusWithoutPostgreSQL(t *testing.T) {
	var answer string
	process := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, answer) }))
	defer process.Close()
	path := write(t, strings.Replace(good, `listen: ""`, `listen: "`+process.Listener.Addr().String()+`"`, 1))
	for _, test := range []struct{ answer, role, why string }{
		{`{"role": "waiting", "ready": false, "reason": "connect to PostgreSQL: refused"}`, "waiting", "outboxd waits: connect to PostgreSQL: refused"},
		{`{"role": "streaming", "streaming": true, "ready": true, "slot_confirmed_lsn": "0/10", "slot_retained_bytes": 99}`, "streaming", "not known: PostgreSQL does not answer"},
	} {
		answer = test.answer
		o := outboxd(t, "status", "--json", "--config", path)
		var r status.Report
		if err := json.Unmarshal([]byte(o.stdout), &r); err != nil || o.code != 0 {
			t.Fatalf("%v: %+v", err, o)
		}
		if r.Role != test.role || r.Why != test.why || len(r.Unseen) != 1 || !strings.Contains(r.Unseen[0], "connect to PostgreSQL") {
			t.Errorf("%s: %+v", test.answer, r)
		}
		if strings.Contains(o.stdout+o.stderr, "hush-hush") {
			t.Errorf("the password shows: %+v", o)
		}
	}

	process.Close()
	o := outboxd(t, "status", "--config", path)
	if last := o.last(t); o.code != exitFailed || o.stdout != "" || !strings.Contains(last, "connect to PostgreSQL") || !strings.Contains(last, "nothing answers at http.listen") {
		t.Errorf("nobody answers: %+v", o)
	}
	// It needs no Kafka, but it does need a DSN.
	if o := outboxd(t, "status", "--config", write(t, "http: {listen: ''}\n")); o.code != exitUsage || !strings.Contains(o.stderr, "postgres.dsn") || strings.Contains(o.stderr, "kafka") {
		t.Errorf("without a DSN: %+v", o)
	}
}

// The command's sentence names the topics that the process waits for.
func TestStatusNamesTopics(t *testing.T) {
	ready := false
	r := status.Report{Ready: &ready, Reason: "no broker answers", HeldBy: walheld.CauseKafka, Process: &status.Process{OldestUnacked: 7, UnackedTopics: []string{"orders"}}}
	f := factsOf(&r, time.Unix(1_700_000_007, 0))
	f.Active = true
	if got, want := walheld.Why(f).Text, `Kafka acknowledges nothing on topic "orders" since 2023-11-14 22:13:20 UTC: no broker answers`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// What servers and rows name does not write to the terminal.
func TestStatusIsPrintable(t *testing.T) {
	var out bytes.Buffer
	r := &status.Report{Role: "streaming", Slot: "outboxd", Why: "by pid 1 (application \x1b[2J\u202eevil\r\n\u0085x)"}
	if err := printStatus(r, &out); err != nil {
		t.Fatal(err)
	}
	if want := "why         by pid 1 (application  [2J evil   x)\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("%q, want %q at the end", out.String(), want)
	}
}
