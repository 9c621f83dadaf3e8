package validate

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	pixels "image"
	"image/color"
	"image/color/palette"
	"image/gif"
	"image/png"
	"maps"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/testbed"
)

var picturesAfter = flag.Duration("pictures", 0, "take the pictures of the status page again, of a connector that has run for as long")

// TestPictures takes docs/pictures/status-page.gif and .png, of an outboxd at work: nothing
// on them is made up, and nothing is changed afterwards.
func TestPictures(t *testing.T) {
	if *picturesAfter == 0 {
		t.Skip("it writes docs/pictures: give -pictures 10m")
	}
	s := newShop(t)
	b := newBrowser(t)
	b.theme(t, "light")
	b.do(t, chromedp.EmulateViewport(900, 760), chromedp.Navigate(s.page), chromedp.WaitVisible(chromedp.CSS("#all")))

	time.Sleep(*picturesAfter / 2)
	s.exec(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
	s.exec(t, `INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('order/refund', 'order-17', 'OrderRefunded', '{}')`)
	time.Sleep(*picturesAfter / 2)

	// A frame each second, shown for a quarter of one: Kafka answers, then not, then again.
	var frames []pixels.Image
	tick := time.Tick(time.Second)
	for i := range 40 {
		<-tick
		s.silent.Store(i >= 8 && i < 22)
		picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		frame, err := png.Decode(bytes.NewReader(picture))
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, frame)
	}
	out, err := os.Create("../../docs/pictures/status-page.gif")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := gif.EncodeAll(out, animation(frames, 25)); err != nil {
		t.Fatal(err)
	}

	// A transaction that somebody has left open, while another table is written.
	go s.exec(t, `SET application_name = 'nightly batch'; BEGIN; INSERT INTO batches DEFAULT VALUES; SELECT pg_sleep(600)`)
	time.Sleep(time.Second)
	b.do(t, chromedp.EmulateViewport(900, 760, chromedp.EmulateScale(1.5)))
	for end := time.Now().Add(2 * time.Minute); b.eval(t, `document.getElementById("why").textContent.includes("nightly batch")`) != true; time.Sleep(time.Second) {
		if time.Now().After(end) {
			t.Fatalf("the page does not say why WAL is held:\n%s", b.text(t))
		}
		s.exec(t, `INSERT INTO page_views SELECT n, repeat('x', 100) FROM generate_series(1, 10000) n`)
	}
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("../../docs/pictures/status-page.png", picture, 0o644); err != nil {
		t.Fatal(err)
	}
}

// shop is a database whose services write events, with outboxd and consumers.
type shop struct {
	postgres *testbed.Postgres
	page     string
	silent   atomic.Bool // Kafka does not answer who publishes
}

func (s *shop) exec(t *testing.T, sql string) {
	if err := s.postgres.Exec(t.Context(), "shop", sql); err != nil && t.Context().Err() == nil {
		t.Error(err)
	}
}

func newShop(t *testing.T) *shop {
	t.Helper()
	postgres, err := testbed.StartPostgres(t.Context(), testbed.PostgresOptions{Settings: map[string]string{"max_slot_wal_keep_size": "4GB"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(postgres.Close)
	s := &shop{postgres: postgres}
	if err := postgres.Exec(t.Context(), "postgres", "CREATE DATABASE shop"); err != nil {
		t.Fatal(err)
	}
	s.exec(t, "CREATE TABLE batches (at timestamptz DEFAULT now()); CREATE TABLE page_views (id int, page text)")
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DefaultNumPartitions(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	kafka.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		kafka.KeepControl()
		if s.silent.Load() {
			kafka.SleepControl(func() {
				for s.silent.Load() {
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		return nil, nil, false
	})

	dir := t.TempDir()
	binary, config := filepath.Join(dir, "outboxd"), filepath.Join(dir, "outboxd.yaml")
	if err := testbed.BuildOutboxd(t.Context(), binary); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.page = "http://" + l.Addr().String()
	l.Close()
	if err := os.WriteFile(config, fmt.Appendf(nil, `postgres: {dsn: %s, slot: shop}
kafka: {brokers: [%s]}
route: {topic: "outbox.event.{aggregate_type}", create_topics: {enabled: true}}
errors: {poison: dead_letter}
reconcile: {every: 1m}
http: {listen: %s}
monitor: {consumer_groups: [billing, shipping]}
`, postgres.DSN("shop"), kafka.ListenAddrs()[0], l.Addr()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), binary, "init", "--apply", "--config", config).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	log := &bytes.Buffer{}
	run := exec.CommandContext(t.Context(), binary, "run", "--config", config)
	run.Stdout, run.Stderr = log, log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := run.Wait()
		if t.Failed() {
			t.Log(err, log)
		}
	})
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if conn, err := net.Dial("tcp", l.Addr().String()); err == nil {
			conn.Close()
			break
		}
	}
	waitReady(t, s.page+"/readyz")
	go s.write(t)
	go consume(t, kafka, "billing", "outbox.event.payment", time.Millisecond)
	go consume(t, kafka, "shipping", "outbox.event.order", 4*time.Second)
	return s
}

// write is the services, with busier and quieter minutes.
func (s *shop) write(t *testing.T) {
	started := time.Now()
	for range time.Tick(100 * time.Millisecond) {
		if t.Context().Err() != nil {
			return
		}
		at := time.Since(started).Seconds()
		s.exec(t, fmt.Sprintf(`INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
			SELECT a.kind, a.kind || '-' || (random() * 1000)::int, a.type, '{"n": 1}'
			FROM generate_series(1, %d) n, (VALUES ('order', 'OrderPlaced', 1), ('payment', 'PaymentReceived', 2), ('shipment', 'ParcelSent', 3)) a (kind, type, every)
			WHERE n %% a.every = 0`, int(14+7*math.Sin(at/50)+2*math.Sin(at/9))))
	}
}

// consume reads a topic as a group, with a pause between two reads.
func consume(t *testing.T, kafka *kfake.Cluster, group, topic string, pause time.Duration) {
	client, err := kgo.NewClient(kgo.SeedBrokers(kafka.ListenAddrs()...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.MetadataMinAge(time.Second), kgo.MetadataMaxAge(2*time.Second))
	if err != nil {
		t.Error(err)
		return
	}
	defer client.Close()
	for t.Context().Err() == nil {
		client.PollFetches(t.Context())
		_ = client.CommitUncommittedOffsets(context.WithoutCancel(t.Context()))
		select {
		case <-t.Context().Done():
		case <-time.After(pause):
		}
	}
}

// animation shows the frames for hundredths of a second each, the last one longer, in the
// 255 colours that they have most of. A pixel that stays is transparent, so that it costs nothing.
func animation(frames []pixels.Image, hundredths int) *gif.GIF {
	often := make(map[color.RGBA]int)
	for _, frame := range frames {
		each(frame.Bounds(), func(x, y int) { often[rgba(frame, x, y)]++ })
	}
	most := slices.SortedFunc(maps.Keys(often), func(a, b color.RGBA) int { return often[b] - often[a] })
	colors := color.Palette{color.RGBA{}}
	for _, c := range most[:min(len(most), 200)] {
		colors = append(colors, c)
	}
	colors = append(colors, palette.Plan9[:min(256-len(colors), 55)]...)
	nearest := make(map[color.RGBA]uint8)
	for c := range often {
		nearest[c] = uint8(1 + colors[1:].Index(c))
	}
	g := &gif.GIF{}
	for i, frame := range frames {
		p := pixels.NewPaletted(frame.Bounds(), colors)
		each(frame.Bounds(), func(x, y int) {
			if c := rgba(frame, x, y); i == 0 || rgba(frames[i-1], x, y) != c {
				p.SetColorIndex(x, y, nearest[c])
			}
		})
		g.Image, g.Delay, g.Disposal = append(g.Image, p), append(g.Delay, hundredths), append(g.Disposal, gif.DisposalNone)
	}
	g.Delay[len(g.Delay)-1] *= 8
	return g
}

func each(r pixels.Rectangle, f func(x, y int)) {
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			f(x, y)
		}
	}
}

func rgba(i pixels.Image, x, y int) color.RGBA {
	return color.RGBAModel.Convert(i.At(x, y)).(color.RGBA)
}
