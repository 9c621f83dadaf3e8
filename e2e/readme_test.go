package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// README's section "Configure", line by line, on servers that have never seen outboxd: the
// event of its last block arrives as it says. PostgreSQL lets the role into the database
// only, with a password, and has no line for replication.
func TestReadmeFromTheBeginning(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("psql"); err != nil {
		t.Skip("psql is missing: apt-get install postgresql-client")
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Configure\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```$").FindAllStringSubmatch(section, -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) != 4 {
		t.Fatalf("README configures in %d blocks", len(blocks))
	}

	postgres := ownPostgres(t, testbed.PostgresOptions{})
	kafka := ownKafka(t, testbed.KafkaOptions{Settings: map[string]string{"auto.create.topics.enable": "false"}})
	s := &scenario{t: t, postgres: postgres, kafka: kafka, database: "shop", topic: "outbox.event", slotName: "outboxd", brokers: kafka.Brokers()}
	s.execIn("postgres", "CREATE DATABASE shop")
	s.exec("CREATE TABLE orders (id int PRIMARY KEY, status text); INSERT INTO orders VALUES (1009, 'placed')")
	access := "host shop outboxd 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n"
	if err := os.WriteFile(filepath.Join(postgres.DataDir(), "pg_hba.conf"), []byte(access), 0o600); err != nil {
		t.Fatal(err)
	}
	s.execIn("postgres", "SELECT pg_reload_conf()")

	host, port, err := net.SplitHostPort(postgres.Addr())
	if err != nil {
		t.Fatal(err)
	}
	replace := func(text, old, by string) string {
		t.Helper()
		if !strings.Contains(text, old) {
			t.Fatalf("README has no %q in\n%s", old, text)
		}
		return strings.ReplaceAll(text, old, by)
	}
	dir := t.TempDir()
	yaml := replace(replace(blocks[0], "db1,db2", postgres.Addr()), "kafka1:9092, kafka2:9092", strings.Join(s.brokers, ", "))
	if err := os.WriteFile(filepath.Join(dir, "outboxd.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(binary, filepath.Join(dir, "outboxd")); err != nil {
		t.Fatal(err)
	}
	commands := replace(blocks[1], `psql shop -c '\password outboxd'`, `psql shop -c "ALTER ROLE outboxd PASSWORD 'secret'"`)
	commands = replace(commands, "export PGPASSWORD=…", "export PGPASSWORD=secret")
	before, run, found := strings.Cut(commands, "outboxd run --config outboxd.yaml\n")
	if !found || run != "" {
		t.Fatalf("README ends its commands otherwise than by run:\n%s", commands)
	}
	if !strings.HasPrefix(blocks[3], "kafka-console-consumer.sh --bootstrap-server kafka1:9092 --topic outbox.event.order ") {
		t.Fatalf("README looks at the event otherwise than by a consumer:\n%s", blocks[3])
	}
	env := append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "PGHOST="+host, "PGPORT="+port, "PGUSER=postgres", "OUTBOXD_HTTP_LISTEN=")
	c := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", before)
	c.Dir, c.Env = dir, env
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, before, out)
	}

	s.whole, s.env = yaml, []string{"PGPASSWORD=secret", "OUTBOXD_HTTP_LISTEN="}
	connector := s.startStreaming()
	s.exec(blocks[2])
	s.waitConfirmed(30 * time.Second)
	connector.stop()
	records := s.read()
	if len(records) != 1 {
		t.Fatalf("%d records arrived", len(records))
	}
	r := records[0]
	id := s.value("SELECT id::text FROM outbox")
	if r.topic != "outbox.event.order" || r.key != "order-1009" || string(r.value) != `{"order": "order-1009"}` || r.id != id || r.position == "" ||
		r.header("type") != "OrderPaid" || r.header("aggregate_type") != "order" || r.header("timestamp") == "" {
		t.Errorf("README's event arrived as %+v, its id is %s", r, id)
	}
	// What the manual's other pages begin with: a time is known of each row.
	for command, want := range map[string]string{
		"outboxd reconcile --since 24h":                                  "1 rows and 1 records were compared",
		"outboxd replay --aggregate-id order-1009 --since 24h --dry-run": "would publish 1 event\n",
	} {
		c := exec.CommandContext(t.Context(), "bash", "-c", command)
		c.Dir, c.Env = dir, append(env, "PGPASSWORD=secret")
		if out, err := c.Output(); err != nil || !strings.HasPrefix(string(out), want) {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
	if paid := s.value("SELECT status FROM orders"); paid != "paid" {
		t.Errorf("the order is %s", paid)
	}
}
