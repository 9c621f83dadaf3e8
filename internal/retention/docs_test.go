package retention

import (
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The SQL of docs/retention.md works as it stands there, and makes set-ups that fit.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../../docs/retention.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```sql\n(.*?)^```$").FindAllStringSubmatch(string(page), -1)
	if len(blocks) != 6 {
		t.Fatalf("%d blocks of SQL", len(blocks))
	}
	tracking, rights, owner, archive, partitions, publication := blocks[0][1], blocks[1][1], blocks[2][1], blocks[3][1], blocks[4][1], blocks[5][1]

	w := newWorld(t, "17", nil)
	// Roles are the server's, and not the database's.
	suffix := "_" + strconv.Itoa(rand.IntN(1e9))
	local := strings.NewReplacer("outbox_owner", "outbox_owner"+suffix, "TO outboxd;", "TO outboxd"+suffix+";")
	run := func(sql string) {
		t.Helper()
		w.exec(local.Replace(sql))
	}
	w.exec("CREATE ROLE outboxd" + suffix + " LOGIN; CREATE ROLE outbox_owner" + suffix)
	w.exec("GRANT CREATE ON SCHEMA public TO outbox_owner" + suffix)
	w.o.Source.DSN = strings.Replace(w.dsn, "postgres@", "outboxd"+suffix+"@", 1)
	w.o.Source.Backfill, w.o.Source.Publication = true, "outboxd"

	run(archive)
	run(rights)
	w.exec("INSERT INTO outbox (payload) VALUES ('a'); CREATE PUBLICATION outboxd FOR TABLE outbox")
	run(publication)
	w.o.Mode, w.o.ArchiveSchema, w.o.ArchiveTable = Archive, "public", "outbox_archive"
	if found := Findings(t.Context(), w.o); len(found) != 1 || found[0].Level != 0 {
		t.Errorf("%+v", found)
	}
	w.run(all)
	w.want("")
	if got := w.value("SELECT payload FROM outbox_archive WHERE archived_at <= now()"); got != "a" {
		t.Errorf("the archive has %q", got)
	}

	w.exec("DROP TABLE outbox, outbox_archive")
	run(partitions)
	run(owner)
	w.exec("CREATE TABLE outbox_2020_01 PARTITION OF outbox FOR VALUES FROM ('2020-01-01') TO ('2020-02-01'); ALTER TABLE outbox_2020_01 OWNER TO outbox_owner" + suffix)
	w.o.Mode, w.o.Keep = DropPartitions, 7*24*time.Hour
	w.run(all)
	if got := w.value("to_regclass('outbox_2020_01')"); got != "" {
		t.Error("the old partition is there")
	}

	// It takes a restart.
	w.exec(tracking)
	w.exec("ALTER SYSTEM RESET track_commit_timestamp")
}
