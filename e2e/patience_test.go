package e2e

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// A server process that decodes a large transaction of another table sends nothing
// and answers nothing, here for more than twice wal_sender_timeout, since it is
// stopped meanwhile. The connector sees that it is at work, says so, and stays.
func TestServerDecodesALargeTransaction(t *testing.T) {
	t.Parallel() // it is mostly waiting
	postgres := ownPostgres(t, testbed.PostgresOptions{})
	s := newScenario(t, postgres, nil)
	s.patience("6s")
	c := s.startStreaming()
	s.events(1, 1)
	s.waitConfirmed(30 * time.Second)
	s.exec("CREATE TABLE other (n int, text text)")
	sender := "FROM pg_stat_activity a JOIN pg_replication_slots s ON s.active_pid = a.pid WHERE slot_name = '" + s.slotName + "'"
	process := s.value("SELECT a.pid::text " + sender)
	pid, err := strconv.Atoi(process)
	if err != nil {
		t.Fatal(err)
	}
	conn := s.connect()
	inserted := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "INSERT INTO other SELECT i, repeat('x', 100) FROM generate_series(1, 500000) i")
		inserted <- err
	}()
	signal := func(sig syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	// Stop it where it does not wait for WAL or the connector.
	waitFor(t, 60*time.Second, func() (string, bool) {
		signal(syscall.SIGSTOP)
		doing := s.value("SELECT concat(wait_event_type, ' ', wait_event) " + sender)
		atWork := !strings.HasPrefix(doing, "Client") && !strings.HasPrefix(doing, "Activity")
		if !atWork {
			signal(syscall.SIGCONT)
		}
		return "the server process is in " + doing, atWork
	})
	defer syscall.Kill(pid, syscall.SIGCONT)
	time.Sleep(15 * time.Second)
	c.waitLog("sends nothing before it is through", time.Second)
	if c.logged("not streaming") || c.count("sends nothing before it is through") != 1 {
		t.Errorf("the connector logged:\n%s", c.tail(10))
	}
	signal(syscall.SIGCONT)
	if err := <-inserted; err != nil {
		t.Fatal(err)
	}
	s.events(2, 2)
	s.waitArrived(2)
	s.waitConfirmed(60 * time.Second)
	if now := s.value("SELECT a.pid::text " + sender); now != process || c.logged("not streaming") {
		t.Errorf("the server process was %s, and is %s", process, now)
	}
	c.waitLog("PostgreSQL sends again", time.Second)
	c.stop()
	s.verify()
}
