package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"outboxd/internal/testbed"
)

var (
	soakFor  = flag.Duration("soak-for", time.Hour, "how long TestSoak goes on, with -soak")
	soakSeed = flag.Uint64("soak-seed", 0, "what TestSoak does, and in which order; 0: something else each time")
)

// Everything at once, for as long as -soak-for says, with each guarantee: transactions of
// several shapes, faults of every kind on both sides, secrets that rotate, retention, and
// comparisons by reconcile. At the end all that was committed is there, in order, what
// cannot be delivered is among the dead letters, and no process has grown.
func TestSoak(t *testing.T) {
	if !*soak {
		t.Skip("only with -soak")
	}
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().Unix())
	}
	began := time.Now()
	fmt.Printf("soak: %s with each guarantee, -soak-seed %d\n", *soakFor, seed)
	runs := []*soakRun{{name: "at_least_once"}, {name: "exactly_once"}}
	t.Run("with", func(t *testing.T) {
		for i, r := range runs {
			r.random = rand.New(rand.NewPCG(seed, uint64(i)))
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				r.run(t, seed+uint64(i))
			})
		}
	})
	fmt.Printf("\nsoak of %s, -soak-seed %d:\n%s\n", began.Format("2 January 2006"), seed, verdict(runs))
}

// soakRun is the soak of one guarantee.
type soakRun struct {
	name    string // delivery.guarantee
	store   string
	random  *rand.Rand
	t       *testing.T
	s       *scenario
	c       *connector
	traffic *soakTraffic
	watch   *watcher
	began   time.Time

	postgresWay, kafkaWay *testbed.Proxy
	clients               *authority
	dsnFile, saslFile     string
	dsn                   string // without the password
	password              string // the role's
	saslPassword          string
	secrets               int // that were made; each begins with soakSecret
	processes             []*connector

	deck []soakFault // what is still to come
	done map[string]int

	// For the verdict.
	took                     time.Duration
	report                   report
	deadLetters, comparisons int
	mismatches               int64
	moved                    string // rows in the archive
	passed                   bool
}

// soakFault is something that happens, and is over when do returns.
type soakFault struct {
	name  string
	share int  // how often it is in the deck
	ends  bool // ends the process
	do    func(*soakRun)
}

var soakFaults = []soakFault{
	{"kill -9", 4, true, func(r *soakRun) {
		r.c.kill()
		r.checkpoint()
		r.start()
	}},
	{"SIGTERM", 2, true, func(r *soakRun) {
		r.c.stop()
		r.checkpoint()
		r.start()
	}},
	{"suspended", 1, false, func(r *soakRun) {
		r.c.signal(syscall.SIGSTOP)
		r.lasts(12 * time.Second)
		r.c.signal(syscall.SIGCONT)
	}},
	{"PostgreSQL restarted", 1, false, func(r *soakRun) {
		// A server that shuts down waits for what it sends to be confirmed.
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
		defer cancel()
		r.must(r.s.postgres.StopFast(ctx))
		r.must(r.s.postgres.Start(r.t.Context()))
	}},
	{"PostgreSQL stopped immediately", 1, false, func(r *soakRun) {
		r.must(r.s.postgres.StopImmediate(r.t.Context()))
		r.lasts(5 * time.Second)
		r.must(r.s.postgres.Start(r.t.Context()))
	}},
	{"PostgreSQL killed", 1, false, func(r *soakRun) {
		r.must(r.s.postgres.Kill(r.t.Context()))
		r.must(r.s.postgres.Start(r.t.Context()))
	}},
	{"PostgreSQL cut off", 1, false, func(r *soakRun) { r.postgresWay.Cut() }},
	{"PostgreSQL cut off in a message", 1, false, func(r *soakRun) {
		r.postgresWay.CutAfter(testbed.ServerToClient, r.random.Int64N(32<<10))
		r.lasts(3 * time.Second)
	}},
	{"PostgreSQL stalled", 1, false, func(r *soakRun) {
		r.postgresWay.Stall(testbed.Both, true)
		r.lasts(12 * time.Second)
		r.postgresWay.Stall(testbed.Both, false)
	}},
	{"Kafka restarted", 1, false, func(r *soakRun) {
		ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
		defer cancel()
		r.must(r.s.kafka.StopGracefully(ctx, 0))
		r.must(r.s.kafka.Start(r.t.Context(), 0))
	}},
	{"Kafka killed", 1, false, func(r *soakRun) {
		r.must(r.s.kafka.Kill(0))
		r.must(r.s.kafka.Start(r.t.Context(), 0))
	}},
	{"Kafka paused", 1, false, func(r *soakRun) {
		r.must(r.s.kafka.Pause(0))
		r.lasts(12 * time.Second)
		r.must(r.s.kafka.Resume(0))
	}},
	{"Kafka cut off", 1, false, func(r *soakRun) { r.kafkaWay.Cut() }},
	{"Kafka's answers lost", 1, false, func(r *soakRun) {
		r.kafkaWay.DropAndCut(testbed.ServerToClient)
		r.lasts(time.Second)
		r.kafkaWay.Cut()
	}},
	{"Kafka stalled", 1, false, func(r *soakRun) {
		r.kafkaWay.Stall(testbed.Both, true)
		r.lasts(12 * time.Second)
		r.kafkaWay.Stall(testbed.Both, false)
	}},
	{"Kafka refuses connections", 1, false, func(r *soakRun) {
		r.kafkaWay.Refuse(true)
		r.kafkaWay.Cut()
		r.lasts(5 * time.Second)
		r.kafkaWay.Refuse(false)
	}},
	// What was valid is no longer, before what is valid is there.
	{"rotation: password of PostgreSQL", 1, false, func(r *soakRun) {
		r.password = r.secret()
		r.s.execIn("postgres", "ALTER ROLE app PASSWORD '"+r.password+"'")
		r.endSessions()
		r.lasts(2 * time.Second)
		r.writeDSN()
	}},
	{"rotation: client certificate", 1, false, func(r *soakRun) {
		r.clients.client("app", -time.Hour) // expired
		r.endSessions()
		r.lasts(2 * time.Second)
		r.clients.client("app", 24*time.Hour)
	}},
	{"rotation: password of Kafka", 1, false, func(r *soakRun) {
		r.rotateSASL()
		r.kafkaWay.Cut()
		r.lasts(2 * time.Second)
		r.write(r.saslFile, r.saslPassword)
	}},
}

func (r *soakRun) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// pause lets some time pass.
func (r *soakRun) pause(most time.Duration) {
	time.Sleep(time.Duration(r.random.Int64N(int64(most))))
}

// lasts lets a fault last. In one of four the process is killed meanwhile, and the next
// one meets the fault at its start.
func (r *soakRun) lasts(most time.Duration) {
	r.pause(most / 2)
	if r.mayEnd() && r.random.IntN(4) == 0 {
		r.done["kill -9"]++
		r.c.kill()
		r.begin()
	}
	r.pause(most / 2)
}

const soakSecret = "secret-"

func (r *soakRun) secret() string {
	r.secrets++
	return fmt.Sprintf(soakSecret+"%d-%d", r.secrets, r.random.Uint32())
}

func (r *soakRun) write(file, text string) {
	r.t.Helper()
	r.must(os.WriteFile(file, []byte(text+"\n"), 0o600))
}

func (r *soakRun) writeDSN() {
	r.t.Helper()
	r.write(r.dsnFile, strings.Replace(r.dsn, "PASSWORD", r.password, 1))
}

// endSessions makes the connector connect anew.
func (r *soakRun) endSessions() {
	r.t.Helper()
	r.s.execIn("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
}

func (r *soakRun) rotateSASL() {
	r.t.Helper()
	r.saslPassword = r.secret()
	client := r.s.client()
	defer client.Close()
	done, err := kadm.NewClient(client).AlterUserSCRAMs(r.t.Context(), nil,
		[]kadm.UpsertSCRAM{{User: "outboxd", Mechanism: kadm.ScramSha512, Iterations: 4096, Password: r.saslPassword}})
	if err == nil {
		err = done.Error()
	}
	r.must(err)
}

func (r *soakRun) once() bool { return r.name == "exactly_once" }

func (r *soakRun) checkpoint() {
	r.t.Helper()
	if r.once() {
		r.s.checkpointOnce()
		return
	}
	r.s.checkpoint()
}

// begin starts a process.
func (r *soakRun) begin() {
	r.t.Helper()
	r.c = r.s.start()
	r.processes = append(r.processes, r.c)
	r.watch.follow(r.c)
}

// start starts a process and waits until it streams.
func (r *soakRun) start() {
	r.t.Helper()
	r.begin()
	r.c.waitLog(`"message":"streaming"`, 3*time.Minute)
}

// recovered waits until everything that is committed by now is delivered.
func (r *soakRun) recovered(from string) {
	r.t.Helper()
	target := r.s.lsn("SELECT pg_current_wal_insert_lsn()::text")
	waitFor(r.t, 5*time.Minute, func() (string, bool) {
		if !r.c.running() {
			r.t.Fatalf("the connector ended by itself after %s:\n%s", from, r.c.tail(20))
		}
		at := r.s.confirmed()
		return fmt.Sprintf("after %s the slot is at %s, the WAL at %s:\n%s", from, at, target, r.c.tail(20)), at >= target
	})
}

// next is a fault by chance, from a deck that has each kind: so each comes. In the second
// and the last quarter the process lives on, so that its growth can be seen, and what
// would end it comes later.
func (r *soakRun) next() soakFault {
	may := func(f soakFault) bool { return !f.ends || r.mayEnd() }
	i := slices.IndexFunc(r.deck, may)
	if i < 0 {
		i = len(r.deck)
		for _, f := range soakFaults {
			r.deck = append(r.deck, slices.Repeat([]soakFault{f}, f.share)...)
		}
		added := r.deck[i:]
		r.random.Shuffle(len(added), func(i, j int) { added[i], added[j] = added[j], added[i] })
		i += slices.IndexFunc(added, may)
	}
	f := r.deck[i]
	r.deck = slices.Delete(r.deck, i, i+1)
	return f
}

func (r *soakRun) mayEnd() bool {
	quarter := int64(4 * time.Since(r.began) / *soakFor)
	return quarter%2 == 0
}

// compare is a round of reconcile beside traffic, half of them while the process is
// killed.
func (r *soakRun) compare() {
	r.t.Helper()
	var both sync.WaitGroup
	both.Go(func() { r.count(r.s.agree()) })
	if r.mayEnd() && r.random.IntN(2) == 0 {
		r.pause(2 * time.Second)
		r.done["kill -9"]++
		r.c.kill()
		r.start()
	}
	both.Wait()
}

func (r *soakRun) count(c *comparison) {
	r.comparisons++
	for _, n := range c.Mismatches {
		r.mismatches += n
	}
}

// prepare starts servers, which ask for passwords and certificates and are reached by
// proxies.
func (r *soakRun) prepare() {
	t := r.t
	t.Helper()
	r.store = "kafka"
	if !r.once() && r.random.IntN(2) == 0 {
		r.store = "slot"
	}
	var err error
	r.kafkaWay, err = testbed.NewProxy("")
	r.must(err)
	t.Cleanup(r.kafkaWay.Close)
	kafka := ownKafka(t, testbed.KafkaOptions{TLS: true, Advertised: []string{r.kafkaWay.Addr()}, Settings: map[string]string{
		"listener.security.protocol.map":                      "CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"listener.name.client.sasl.enabled.mechanisms":        "SCRAM-SHA-512",
		"listener.name.client.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
		// Clients log in again under load.
		"connections.max.reauth.ms": "20000",
		// Look for transactions that took too long every half second, not every ten.
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
	}})
	r.kafkaWay.SetTarget(kafka.Brokers()[0])
	postgres := ownPostgres(t, testbed.PostgresOptions{TLS: true, Settings: map[string]string{"track_commit_timestamp": "on"}})
	r.postgresWay, err = testbed.NewProxy(postgres.Addr())
	r.must(err)
	t.Cleanup(r.postgresWay.Close)

	s := newScenario(t, postgres, kafka)
	r.s, s.digests = s, true
	s.execIn(s.database, soakTables)
	r.clients = newAuthority(t)
	ca, err := os.ReadFile(filepath.Join(r.clients.dir, "ca.crt"))
	r.must(err)
	r.must(os.WriteFile(filepath.Join(postgres.DataDir(), "clients.crt"), ca, 0o644))
	r.must(os.WriteFile(filepath.Join(postgres.DataDir(), "pg_hba.conf"), []byte(
		"hostssl all app 127.0.0.1/32 scram-sha-256 clientcert=verify-full\nhost all all 127.0.0.1/32 trust\nlocal all all trust\n"), 0o644))
	r.password = r.secret()
	for _, sql := range []string{"CREATE ROLE app LOGIN SUPERUSER REPLICATION PASSWORD '" + r.password + "'",
		"ALTER SYSTEM SET ssl_ca_file = 'clients.crt'", "SELECT pg_reload_conf()"} {
		s.execIn("postgres", sql)
	}
	dir := t.TempDir()
	r.dsnFile, r.saslFile = filepath.Join(dir, "dsn"), filepath.Join(dir, "sasl")
	r.dsn = "postgres://app:PASSWORD@" + r.postgresWay.Addr() + "/" + s.database + "?sslmode=verify-full&sslrootcert=" + postgres.CertificateFile() +
		r.clients.client("app", 24*time.Hour)
	r.writeDSN()
	r.rotateSASL()
	r.write(r.saslFile, r.saslPassword)

	for _, shape := range []string{"t0", "t1", "bulk", "large", "small"} {
		s.createTopic(s.topic+"."+shape, 3, nil)
	}
	s.setMaxMessageBytes("small", soakSmallest)
	s.dsn = "${file:" + r.dsnFile + "}"
	s.env = []string{"OUTBOXD_HTTP_LISTEN=127.0.0.1:0"}
	s.brokersInExtra = true
	s.extra = fmt.Sprintf(`kafka:
  brokers: [%q]
  tls: {enabled: true, ca: %q}
  sasl: {mechanism: SCRAM-SHA-512, username: outboxd, password: "${file:%s}"}
  max_buffered: 4MiB
delivery: {guarantee: %s, store: %s, topic: %s-positions, confirm_interval: 200ms}
errors: {poison: dead_letter, dead_letter_topic: %s-dead, max_dead_letters: {count: 0}, retry: {min: 50ms, max: 1s}}
value: {null_payload: error}
retention: {mode: archive, archive_table: archive, keep: 5s, interval: 1s}
reconcile: {every: %s}
`, r.kafkaWay.Addr(), kafka.CertificateFile(), r.saslFile, r.name, r.store, s.topic, s.topic, max(*soakFor/20, 10*time.Second))
}

func (r *soakRun) run(t *testing.T, seed uint64) {
	r.t, r.done = t, make(map[string]int)
	r.prepare()
	r.watch = startWatcher(t)
	r.start()
	r.traffic = r.s.startSoakTraffic(seed)
	r.began = time.Now()
	var told, compared time.Duration
	for {
		at := time.Since(r.began)
		if at >= *soakFor || t.Failed() {
			break
		}
		if at-told >= max(*soakFor/60, 20*time.Second) {
			told = at
			r.progress()
		}
		if at-compared >= *soakFor/20 {
			compared = at
			r.compare()
			r.recovered("a comparison")
			continue
		}
		r.pause(3 * time.Second)
		f := r.next()
		f.do(r)
		r.done[f.name]++
		r.recovered(f.name)
	}
	r.took = time.Since(r.began)
	r.traffic.stop()
	r.recovered("the traffic")
	r.verify()
	r.passed = !t.Failed()
}

// verify looks at everything, first while the process still runs.
func (r *soakRun) verify() {
	t, s := r.t, r.s
	t.Helper()
	last := s.agree()
	r.count(last)
	r.watch.stop()
	r.c.stop()
	r.checkpoint()

	rows, poison := s.soakRows()
	if r.once() {
		r.report = s.verifyRowsOnce(rows)
	} else {
		r.report = s.verifyRecords(s.read(), rows, nil)
	}
	if n := s.value(miscounted); n != "0" {
		t.Errorf("the rows of %s keys are not those that were written", n)
	}
	r.moved = s.value("SELECT count(*)::text FROM archive")
	letters := s.unresolved()
	r.deadLetters = len(letters)
	for _, l := range letters {
		if l.ID == nil || !poison[*l.ID] {
			t.Errorf("a dead letter of no poison row, or a second one: %+v", l)
			continue
		}
		delete(poison, *l.ID)
	}
	for id := range poison {
		t.Errorf("no dead letter of the poison row %s", id)
	}
	if want := int64(len(rows) + r.deadLetters); last.Rows != want || last.Matched+last.NotComparable["dead_lettered"] != want {
		t.Errorf("reconcile compared %+v of %d rows", *last, want)
	}
	for name, n := range r.watch.mismatches {
		t.Errorf("%s was %v: a false alarm", name, n)
		r.mismatches += int64(n)
	}
	for i, c := range r.processes {
		if c.logged(soakSecret) {
			t.Errorf("process %d has logged a password", i+1)
		}
	}
	for i, life := range r.watch.lives {
		if early, late, ok := growth(life); ok {
			if what := grown(early, late); what != "" {
				t.Errorf("process %d, in %d samples: %s", i+1, len(life), what)
			}
		}
	}
	if len(rows) < 1000 || r.deadLetters == 0 || *soakFor >= 30*time.Minute && r.missed() != "" {
		t.Errorf("the scenario was too tame to mean anything: %d events, %d dead letters, never %s", len(rows), r.deadLetters, r.missed())
	}
}

// missed names the kinds of faults that never came.
func (r *soakRun) missed() string {
	var names []string
	for _, f := range soakFaults {
		if r.done[f.name] == 0 {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, ", ")
}

func (r *soakRun) progress() {
	u := r.watch.last()
	faults := 0
	for _, n := range r.done {
		faults += n
	}
	fmt.Printf("soak: %s %s of %s: %d transactions, %d faults, %d processes, %d comparisons with %d mismatches; %.0f MiB, %.0f goroutines, %.0f files\n",
		r.name, time.Since(r.began).Round(time.Second), *soakFor, r.traffic.committed.Load(), faults, len(r.watch.lives), r.comparisons, r.mismatches,
		u.rss/(1<<20), u.goroutines, u.files)
}

// verdict is a table with a column for each run.
func verdict(runs []*soakRun) string {
	runs = slices.DeleteFunc(runs, func(r *soakRun) bool { return r.t == nil }) // -run left it out
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	line := func(name string, of func(r *soakRun) any) {
		fmt.Fprint(w, name)
		for _, r := range runs {
			fmt.Fprintf(w, "\t%v", of(r))
		}
		fmt.Fprintln(w)
	}
	line("guarantee", func(r *soakRun) any { return r.name + ", store " + r.store })
	line("duration", func(r *soakRun) any { return r.took.Round(time.Second) })
	line("events committed", func(r *soakRun) any { return r.report.committed })
	line("records, of them repeated", func(r *soakRun) any { return fmt.Sprintf("%d, %d", r.report.records, r.report.repeated) })
	line("transactions, and rolled back", func(r *soakRun) any {
		if r.traffic == nil {
			return "none"
		}
		return fmt.Sprintf("%d, %d", r.traffic.committed.Load(), r.traffic.rolledBack.Load())
	})
	line("dead letters", func(r *soakRun) any { return r.deadLetters })
	line("rows archived by retention", func(r *soakRun) any { return r.moved })
	for _, f := range soakFaults {
		line(f.name, func(r *soakRun) any { return r.done[f.name] })
	}
	line("comparisons, mismatches", func(r *soakRun) any { return fmt.Sprintf("%d, %d", r.comparisons, r.mismatches) })
	line("processes, longest life", func(r *soakRun) any {
		return fmt.Sprintf("%d, %d s", len(r.lives()), len(r.longest()))
	})
	grew := func(pick func(usage) float64, unit float64) func(r *soakRun) any {
		return func(r *soakRun) any {
			early, late, ok := growth(r.longest())
			if !ok {
				return "too short"
			}
			return fmt.Sprintf("%.0f, %.0f", pick(early)/unit, pick(late)/unit)
		}
	}
	line("its goroutines, early and late", grew(func(u usage) float64 { return u.goroutines }, 1))
	line("its file descriptors", grew(func(u usage) float64 { return u.files }, 1))
	line("its heap, MiB", grew(func(u usage) float64 { return u.heap }, 1<<20))
	line("most memory of any, MiB", func(r *soakRun) any {
		if r.watch == nil {
			return "none"
		}
		return fmt.Sprintf("%.0f", r.watch.maxRSS()/(1<<20))
	})
	line("verdict", func(r *soakRun) any { return map[bool]string{true: "pass", false: "FAIL"}[r.passed] })
	w.Flush()
	return text.String()
}

func (r *soakRun) lives() [][]usage {
	if r.watch == nil {
		return nil
	}
	return r.watch.lives
}

// longest is the life with the most samples.
func (r *soakRun) longest() (most []usage) {
	for _, life := range r.lives() {
		if len(life) > len(most) {
			most = life
		}
	}
	return most
}
