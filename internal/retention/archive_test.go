package retention

import (
	"strings"
	"testing"
)

func (w *world) archive() {
	w.o.Mode, w.o.ArchiveSchema, w.o.ArchiveTable = Archive, "public", "archive"
}

// Rows arrive in the archive as they were, whatever the order of its columns, what they
// are called, and how they are made.
func TestArchive(t *testing.T) {
	for _, version := range []string{"13", "17"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t, version, nil)
			w.exec(`DROP TABLE outbox; CREATE TABLE outbox (gone int, id bigint GENERATED ALWAYS AS IDENTITY, payload text, "Kéy ""x""" varchar(20), body jsonb, raw bytea,
					n numeric(20, 5), twice text GENERATED ALWAYS AS (payload || payload) STORED, at timestamptz DEFAULT now(), tags text[]) PARTITION BY LIST (payload);
				ALTER TABLE outbox DROP gone;
				CREATE TABLE part1 PARTITION OF outbox FOR VALUES IN ('a', 'b');
				CREATE TABLE part2 (tags text[], payload text, extra int, id bigint NOT NULL, "Kéy ""x""" varchar(20), body jsonb, raw bytea, n numeric(20, 5),
					twice text GENERATED ALWAYS AS (payload || payload) STORED, at timestamptz);
				ALTER TABLE part2 DROP extra;
				ALTER TABLE outbox ATTACH PARTITION part2 DEFAULT;
				CREATE TABLE archive (archived timestamptz NOT NULL DEFAULT now(), tags text[], at timestamptz, n numeric(20, 5), raw bytea, twice text GENERATED ALWAYS AS (payload || payload) STORED,
					body jsonb, "Kéy ""x""" varchar(20), payload text, id bigint GENERATED ALWAYS AS IDENTITY, note text)`)
			for _, payload := range []string{"a", "b", "c", "d"} {
				w.exec(`INSERT INTO outbox (payload, "Kéy ""x""", body, raw, n, tags) VALUES ('` + payload + `', 'k', '{"a": [1, null, 12345678901234567890.00]}', '\x00ff', 1.5, '{"a,b", NULL}'), ('` + payload + `', NULL, NULL, NULL, NULL, NULL)`)
			}
			const all8 = `(SELECT string_agg(row(id, payload, "Kéy ""x""", body, raw, n, twice, at, tags)::text, ' ' ORDER BY id) FROM `
			before := w.value(all8 + "outbox)")
			w.archive()
			r := w.run(all)
			w.want("")
			if after := w.value(all8 + "archive)"); after != before || before == "" {
				t.Errorf("the archive has\n%s, want\n%s", after, before)
			}
			if n := r.Outbox().Removed; n != 8 {
				t.Errorf("%d rows are counted", n)
			}
		})
	}
}

// A row that the archive refuses stays in the outbox, and those around it move.
func TestArchiveRefusesRows(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.exec(`CREATE TABLE archive (LIKE outbox INCLUDING ALL, CHECK (payload <> 'bad')); INSERT INTO archive (id, payload) OVERRIDING SYSTEM VALUE VALUES (7, 'there');
		INSERT INTO outbox (payload) SELECT CASE i WHEN 30 THEN 'bad' ELSE lpad(i::text, 2, '0') END FROM generate_series(1, 50) i`)
	w.archive()
	r := w.retention()
	err := r.once(t.Context(), all)
	if err == nil || !strings.Contains(err.Error(), "constraint") {
		t.Error(err)
	}
	w.want("07 bad")
	if n := w.value("SELECT count(*) FROM archive"); n != "49" {
		t.Errorf("%s rows in the archive", n)
	}
	// Again and again the same is said once.
	r.say(err)
	r.say(r.once(t.Context(), all))
	if n := strings.Count(w.said.String(), "removes nothing"); n != 1 {
		t.Errorf("it is said %d times: %s", n, &w.said)
	}
	w.exec("DELETE FROM archive WHERE id = 7; DELETE FROM outbox WHERE payload = 'bad'")
	r.say(r.once(t.Context(), all))
	w.want("")
	if !strings.Contains(w.said.String(), "works again") {
		t.Error(&w.said)
	}
}

// A trigger of the archive that drops rows would make them vanish.
func TestArchiveThatSwallows(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.exec(`CREATE TABLE archive (LIKE outbox); INSERT INTO outbox (payload) VALUES ('a'), ('b');
		CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER swallow BEFORE INSERT ON archive FOR EACH ROW EXECUTE FUNCTION swallow()`)
	w.archive()
	if err := w.retention().once(t.Context(), all); err == nil || !strings.Contains(err.Error(), "did not take every row") {
		t.Error(err)
	}
	w.want("a b")
}

// A foreign key to an outbox row keeps that row, and no other.
func TestForeignKeys(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.exec(`INSERT INTO outbox (payload) VALUES ('a'), ('b'), ('c'); CREATE TABLE child (id bigint REFERENCES outbox); INSERT INTO child VALUES (2)`)
	if err := w.retention().once(t.Context(), all); err == nil || !strings.Contains(err.Error(), "foreign key") {
		t.Error(err)
	}
	w.want("b")
}
