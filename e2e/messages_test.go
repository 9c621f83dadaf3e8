package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// Messages of pg_logical_emit_message are events like rows: in the order of
// their transaction, counted with its rows, and gone when it is rolled back.
func TestMessagesBesideRows(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.extra = `outbox: {message_prefix: shop, headers: {tenant: tenant}, columns: {timestamp: at, version: version}}`
	s.exec("ALTER TABLE outbox ADD COLUMN tenant text, ADD COLUMN at timestamptz, ADD COLUMN version int")
	c := s.startStreaming()
	large := strings.Repeat("0123456789abcdef", 4<<10)
	s.execIn(s.database, `
		BEGIN;
		INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{"n": 1}');
		SELECT pg_logical_emit_message(true, 'shop', '{"id":"m2","type":"t0","aggregate_type":"cart","aggregateid":"k","payload": {"n" : 2.0,"b":123456789012345678901},
			"tenant":{"a":1},"at":"2024-05-06T07:08:09.5Z","version":12}');
		SELECT pg_logical_emit_message(true, 'shopping', 'not ours');
		INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{"n": 3}');
		SAVEPOINT s; SELECT pg_logical_emit_message(true, 'shop', '{"id":"lost"}'); ROLLBACK TO s;
		SELECT pg_logical_emit_message(true, 'shop', '{"id":"m4","type":"t0","aggregate_id":"k","payload":"text \u00e9"}');
		SELECT pg_logical_emit_message(true, 'shop', '{"id":"m5","type":"t0","aggregate_id":"k","payload":null}');
		COMMIT;
		BEGIN; SELECT pg_logical_emit_message(true, 'shop', '{"id":"rolled back"}'); ROLLBACK;
		SELECT pg_logical_emit_message(false, 'shop', '{"id":"stray"}');
		SELECT pg_logical_emit_message(false, 'shop', 'stray');
		SELECT pg_logical_emit_message(true, 'shop', '{"id":"m6","type":"t0","aggregate_id":"k","payload":"`+large+`"}');`)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if n := c.count("messages that are not transactional"); n != 1 {
		t.Errorf("%d warnings of messages that are not events, want 1:\n%s", n, c.tail(20))
	}
	var got []string
	records := s.read()
	for _, r := range records {
		_, number, _ := strings.Cut(r.position, "-")
		value := "none"
		if r.value != nil {
			value = string(clipText(r.value))
		}
		got = append(got, strings.Join([]string{number, r.id, r.key, value, r.header("aggregate_type"), r.header("version"), r.header("timestamp"), r.header("tenant")}, " "))
	}
	want := []string{
		`00000001 1 k {"n": 1} order   `,
		`00000002 m2 k {"n" : 2.0,"b":123456789012345678901} cart 12 2024-05-06T07:08:09.500000Z {"a":1}`,
		`00000003 2 k {"n": 3} order   `,
		`00000004 m4 k "text \u00e9"    `,
		`00000005 m5 k none    `,
		`00000001 m6 k ` + string(clipText([]byte(`"`+large))) + `    `,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if last := records[len(records)-1]; len(last.value) != len(large)+2 {
		t.Errorf("%d bytes of %d", len(last.value), len(large)+2)
	}
}

// An outbox of messages alone needs no table: init makes none, and run streams
// them; one that is no event stops it.
func TestMessagesWithoutATable(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"14", "18"} {
		t.Run(version, func(t *testing.T) {
			s := newScenario(t, ownPostgres(t, testbed.PostgresOptions{Version: version}), nil)
			s.exec("DROP TABLE outbox")
			s.extra = "outbox: {table: \"\", message_prefix: my shop}\nvalue: {format: cloudevents}\ndelivery: {confirm_interval: 50ms}"
			if code, out, stderr := invoke(t, "init", "--apply", "--role", "", "--config", s.configFile()); code != 0 {
				t.Fatalf("exit code %d: %s%s", code, out, stderr)
			}
			emit := func(from, to int) {
				s.exec(`SELECT pg_logical_emit_message(true, 'my shop', format('{"id":"m%s","type":"t0","aggregate_id":"k","payload":{"n": %s}}', i, i)) FROM generate_series($1::int, $2::int) i`, from, to)
			}
			emit(1, 3)
			c := s.startStreaming()
			emit(4, 10)
			s.waitConfirmed(30 * time.Second)
			c.kill()
			s.exec(`SELECT pg_logical_emit_message(true, 'my shop', 'hello')`)
			emit(11, 20)
			s.start().failsWith(1, "poison event", "-00000001", `"my shop"`, "not JSON")
			s.advanceSlot()
			emit(21, 21)
			c = s.startStreaming()
			s.waitConfirmed(30 * time.Second)
			c.stop()
			records := s.read()
			var ids []string
			for _, r := range records {
				var event struct {
					ID, Source string
					Data       json.RawMessage
				}
				if err := json.Unmarshal(r.value, &event); err != nil {
					t.Fatal(err)
				}
				if want := "/" + s.database + "/my%20shop"; event.Source != want || event.ID != r.id || string(event.Data) != fmt.Sprintf(`{"n": %s}`, r.id[1:]) {
					t.Errorf("%s", r.value)
				}
				if !slices.Contains(ids, r.id) {
					ids = append(ids, r.id)
				}
			}
			if want := "m1 m2 m3 m4 m5 m6 m7 m8 m9 m10 m21"; strings.Join(ids, " ") != want {
				t.Errorf("got %v, want %s", ids, want)
			}
		})
	}
}

// PostgreSQL 13 cannot deliver messages; that is said, and not found out.
func TestMessagesNeedPostgres14(t *testing.T) {
	t.Parallel()
	s := newScenario(t, ownPostgres(t, testbed.PostgresOptions{Version: "13"}), nil)
	s.extra = "outbox: {message_prefix: shop}"
	s.start().failsWith(1, "outbox.message_prefix", "PostgreSQL 14")
}
