package e2e

import (
	"os"
	"testing"
	"time"
)

func TestZZ(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.extra = "errors: {retry: {min: 50ms, max: 500ms}}"
	s.makeSlot()
	s.events(1, 50)
	t.Log(s.value("select version()"), s.confirmed(), s.value("SELECT pg_current_wal_insert_lsn()::text"))
	c := s.start()
	time.Sleep(8 * time.Second)
	t.Log(c.tail(40))
	t.Log(s.confirmed(), s.arrived(), s.value("SELECT pg_current_wal_insert_lsn()::text"))
	b, _ := os.ReadFile(s.postgres.LogFile())
	t.Log(string(b[max(0, len(b)-4000):]))
	c.stop()
	s.verify()
}
