package validate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/jackc/pglogrepl"

	"outboxd/internal/status"
	"outboxd/internal/walheld"
)

// A connector that is busy, as its page shows it.
func busyStatus() *status.Status {
	s := status.New(time.Minute)
	s.Build("1.2.3", "abc1234", "go1.26")
	s.Streaming(&status.Gauges{
		InFlightEvents: func() int64 { return 1_204 }, InFlightBytes: func() int64 { return 740_000 },
		ReceivedLSN: func() pglogrepl.LSN { return 0x16_B374D848 }, Confirmed: func() pglogrepl.LSN { return 0x16_B374A000 },
		OldestUnacked: func() time.Duration { return 3 * time.Millisecond }, Alive: time.Now,
	})
	s.Kafka(nil)
	s.Slot(status.Slot{Retained: 1900 << 20, Safe: 8_200 << 20, WALStatus: "extended", Confirmed: "16/B3700000", Held: walheld.Facts{
		Slot: "outboxd", Active: true, Restart: 0x16_3B000000, Confirmed: 0x16_B3700000, Written: 0x16_B3800000,
		Oldest: &walheld.Transaction{PID: "4711", Application: "nightly batch", User: "shop", Database: "shop", State: "idle in transaction",
			Since: time.Now().Add(-2 * time.Hour), Open: 2 * time.Hour},
	}})
	now := time.Now()
	for topic, n := range map[string]int{"outbox.event.OrderPlaced": 940, "outbox.event.OrderPaid": 610, "outbox.event.OrderShipped": 120} {
		for range n {
			s.Acked(topic, now.Add(-3*time.Millisecond), now)
		}
	}
	s.Fault("kafka", errors.New("NOT_LEADER_FOR_PARTITION: For requests intended only for the leader, this error indicates that the broker is not the current leader."))
	s.Kafka(nil)
	return s
}

// aPastHour is a history that no test waits for.
func aPastHour() status.HistoryReport {
	h := status.HistoryReport{EverySeconds: 10, Until: time.Now()}
	for i := range 360 {
		x := float64(i)
		events, fast, slow := math.Round(820+300*math.Sin(x/40)+60*math.Sin(x/3)), 0.0011+0.0003*math.Sin(x/9), 0.006+0.004*math.Sin(x/17)
		p50, p99 := &fast, &slow
		switch {
		case i >= 200 && i < 212: // Kafka was away
			events, p50, p99 = 0, nil, nil
		case i >= 212 && i < 218:
			events, fast, slow = 2400, 40-6*(x-211), 110-15*(x-211)
		}
		h.Events, h.P50, h.P99 = append(h.Events, events), append(h.P50, p50), append(h.P99, p99)
	}
	return h
}

// page serves the connector's page as it is, with a history that was made up if there is
// one, and returns its address and the URLs that were asked for.
type page struct {
	url   string
	stop  func()
	asked chan string
}

func servePage(t *testing.T, s *status.Status, address string, o status.HTTP, history *status.HistoryReport) page {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	outer, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.ServeWith(ctx, inner, o) }()
	p := page{url: "http://" + outer.Addr().String(), asked: make(chan string, 1000)}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: inner.Addr().String()})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked <- r.URL.String()
		if history != nil && r.URL.Path == "/status/history" {
			_ = json.NewEncoder(w).Encode(history)
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(outer) }()
	stopped := false
	p.stop = func() {
		if !stopped {
			stopped = true
			server.Close()
			cancel()
			<-ended
		}
	}
	t.Cleanup(p.stop)
	return p
}

// contrast gives the lowest contrast of a text with what is behind it, and that text.
const contrast = `(() => {
  const light = (c) => { const [r, g, b] = c.match(/[\d.]+/g).map(Number).slice(0, 3).map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  let worst = [99, ""];
  for (const e of document.querySelectorAll("#all *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility()) continue;
    let behind = e, back = "rgba(0, 0, 0, 0)";
    while (behind && back === "rgba(0, 0, 0, 0)") { back = getComputedStyle(behind).backgroundColor; behind = behind.parentElement; }
    const [a, b] = [light(getComputedStyle(e).color), light(back)].sort((x, y) => y - x), c = (a + .05) / (b + .05);
    if (c < worst[0]) worst = [c, e.textContent];
  }
  return worst;
})()`

// The page can be read in both themes, on a screen and on a phone, and does nothing that
// it forbids itself. go test -artifacts keeps the pictures.
func TestPage(t *testing.T) {
	history := aPastHour()
	p := servePage(t, busyStatus(), "127.0.0.1:0", status.HTTP{}, &history)
	b := newBrowser(t)
	for _, theme := range []string{"light", "dark"} {
		for _, width := range []int64{1200, 390} {
			name := fmt.Sprintf("%s-%d", theme, width)
			b.theme(t, theme)
			b.do(t, chromedp.EmulateViewport(width, 844), chromedp.Navigate(p.url), chromedp.WaitVisible(chromedp.CSS("#all")), chromedp.WaitVisible(chromedp.CSS("#ratePlot svg")))
			text := b.text(t)
			for _, want := range []string{"outboxd outboxd", "streaming", "1.2.3", "WAL: a transaction is open since", "by pid 4711 (application nightly batch",
				"1,204", "722.7 KiB", "outbox.event.OrderPaid", "610", "1.9 GiB", "8.0 GiB", "16/B3700000", "NOT_LEADER_FOR_PARTITION", "1 hour ago", "1.3 ms · 9.1 ms"} {
				if !strings.Contains(text, want) {
					t.Errorf("%s: no %q in:\n%s", name, want, text)
				}
			}
			if wide := b.eval(t, "document.documentElement.scrollWidth"); wide != float64(width) {
				t.Errorf("%s: %v wide", name, wide)
			}
			if worst := b.eval(t, contrast).([]any); worst[0].(float64) < 4.5 {
				t.Errorf("%s: %q can hardly be read, contrast %v", name, worst[1], worst[0])
			}
			picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(t.ArtifactDir(), name+".png"), picture, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	back := func() string { return fmt.Sprint(b.eval(t, "getComputedStyle(document.body).backgroundColor")) }
	dark := back()
	b.theme(t, "light")
	if light := back(); light == dark {
		t.Errorf("both themes have the background %s", light)
	}
	b.quiet(t, p.url)
}

// The panel of reconciliation says what the last round found, and is not there without
// rounds.
func TestPageReconciliation(t *testing.T) {
	panel := func(b *browser, p page) string {
		t.Helper()
		b.do(t, chromedp.Navigate(p.url), chromedp.WaitVisible(chromedp.CSS("#all")))
		return fmt.Sprint(b.eval(t, `(() => { const e = document.getElementById("reconcileCard"); return e.checkVisibility() ? e.innerText.split("\n").map((l) => l.trim()).filter(Boolean).join(" ") : "hidden" })()`))
	}
	if text := panel(newBrowser(t), servePage(t, busyStatus(), "127.0.0.1:0", status.HTTP{}, nil)); text != "hidden" {
		t.Errorf("without reconcile.every: %q", text)
	}
	s := busyStatus()
	s.UseReconcile([]string{"missing", "out_of_order", "late"})
	p := servePage(t, s, "127.0.0.1:0", status.HTTP{}, nil)
	b := newBrowser(t)
	for _, round := range []struct {
		make func()
		want string
	}{
		{func() {}, "Reconciliation last round not compared yet"},
		{func() { s.ReconcileMissed("no space left on device") }, "Reconciliation last round not compared yet rounds missed 1 because no space left on device"},
		{func() { s.Reconciled(120_400, map[string]int64{"missing": 0, "out_of_order": 0, "late": 0}) }, "Reconciliation last round 0 s ago rows compared 120,400 mismatches none"},
		{func() { s.Reconciled(120_500, map[string]int64{"missing": 3, "out_of_order": 1, "late": 0}) },
			"Reconciliation last round 0 s ago rows compared 120,500 mismatches 4 missing 3 out of order 1"},
		{func() { s.ReconcileMissed("<b>x</b>") }, "Reconciliation last round 0 s ago rows compared 120,500 mismatches 4 missing 3 out of order 1 rounds missed 1 because <b>x</b>"},
	} {
		round.make()
		if text := strings.Replace(panel(b, p), " 1 s ago", " 0 s ago", 1); text != round.want {
			t.Errorf("%q, want %q", text, round.want)
		}
	}
	if bad := b.eval(t, `[...document.querySelectorAll("#reconcile dd.bad")].length`); bad != 3.0 {
		t.Errorf("%v values are red", bad)
	}
	b.quiet(t, p.url)
}

// What rows, brokers and servers say is text, whatever stands in it.
func TestPageEscapes(t *testing.T) {
	s := busyStatus()
	hostile := `<img src=x onerror="window.owned=1"></script><script>window.owned=1</script>`
	now := time.Now()
	s.Acked(hostile, now, now)
	s.Fault("postgres", errors.New("fault: "+hostile))
	s.Slot(status.Slot{Retained: 99 << 20, Safe: -1, WALStatus: "reserved", Synchronous: "note: " + hostile, Held: walheld.Facts{Slot: "s", Active: true, Restart: 1, Confirmed: 90 << 20, Written: 91 << 20,
		Oldest: &walheld.Transaction{PID: "1", Application: hostile, Open: time.Hour}}})
	p := servePage(t, s, "127.0.0.1:0", status.HTTP{}, nil)
	b := newBrowser(t)
	b.do(t, chromedp.Navigate(p.url), chromedp.WaitVisible(chromedp.CSS("#all")))
	text := b.text(t)
	for _, want := range []string{hostile + "\t", "fault: " + hostile, "note: " + hostile, "application " + hostile} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if n := b.eval(t, `document.querySelectorAll("img").length + (window.owned ? 100 : 0) + document.scripts.length`); n != 1.0 {
		t.Errorf("texts have become elements: %v", n)
	}
	// The policy forbids it even if somebody forgets: the script's hash and the type are wrong.
	if failed := b.eval(t, `(() => { try { document.body.innerHTML = "<b>x</b>"; return "taken" } catch (e) { return "refused" } })()`); failed != "refused" {
		t.Errorf("HTML of a text is %v", failed)
	}
	b.eval(t, `{ const script = document.createElement("script"); try { script.text = "window.owned = 1" } catch {} document.body.append(script); const image = document.createElement("img"); image.src = "http://192.0.2.1/x"; document.body.append(image); fetch("http://192.0.2.1/y").catch(() => {}) } 0`)
	if owned := b.eval(t, `String(window.owned)`); owned != "undefined" {
		t.Error("a script of others runs")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if all := strings.Join(b.problems, "\n"); !strings.Contains(all, "connect-src") || !strings.Contains(all, "img-src") {
		t.Errorf("other servers may be asked: %s", all)
	}
}

// The page asks for the token, keeps it out of every URL, and forgets a wrong one.
func TestPageAsksForTheToken(t *testing.T) {
	p := servePage(t, busyStatus(), "127.0.0.1:0", status.HTTP{Token: func() (string, error) { return "open-sesame", nil }}, nil)
	b := newBrowser(t)
	give := func(token string) {
		b.do(t, chromedp.WaitVisible(chromedp.CSS("#token")), chromedp.SendKeys(chromedp.CSS("#token"), token+"\r"))
	}
	b.do(t, chromedp.Navigate(p.url), chromedp.WaitVisible(chromedp.CSS("#ask")))
	if text := b.text(t); strings.Contains(text, "4711") || strings.Contains(text, "OrderPaid") {
		t.Errorf("without the token it shows:\n%s", text)
	}
	give("open-barley")
	b.become(t, `document.getElementById("asked").textContent.includes("not the token")`)
	give("open-sesame")
	b.do(t, chromedp.WaitVisible(chromedp.CSS("#all")), chromedp.WaitNotVisible(chromedp.CSS("#ask")))
	b.do(t, chromedp.Reload(), chromedp.WaitVisible(chromedp.CSS("#all"))) // the tab remembers it
	if text := b.text(t); !strings.Contains(text, "4711") {
		t.Errorf("with the token it shows:\n%s", text)
	}
	for len(p.asked) > 0 {
		if asked := <-p.asked; strings.Contains(asked, "open") || strings.Contains(asked, "?") {
			t.Errorf("the URL %s", asked)
		}
	}
	if kept := fmt.Sprint(b.eval(t, "location.href + document.cookie + JSON.stringify(localStorage) + document.documentElement.outerHTML")); strings.Contains(kept, "open-sesame") {
		t.Error("the token is kept where others find it")
	}
	b.quiet(t, p.url, "401 (Unauthorized)")
}

// The page says that outboxd does not answer, keeps what it knew, and goes on by itself;
// a stream that is down is another matter, which it shows.
func TestPageWithoutOutboxd(t *testing.T) {
	s := busyStatus()
	p := servePage(t, s, "127.0.0.1:0", status.HTTP{}, nil)
	b := newBrowser(t)
	b.do(t, chromedp.Navigate(p.url), chromedp.WaitVisible(chromedp.CSS("#all")), chromedp.WaitNotVisible(chromedp.CSS("#lost")))
	address := strings.TrimPrefix(p.url, "http://")
	p.stop()
	b.do(t, chromedp.WaitVisible(chromedp.CSS("#lost")))
	if text := b.text(t); !strings.Contains(text, "No answer from outboxd since") || !strings.Contains(text, "4711") {
		t.Errorf("while it is away:\n%s", text)
	}
	s.Stopped()
	s.Fault("postgres", errors.New("connect to PostgreSQL: connection refused"))
	again := servePage(t, s, address, status.HTTP{}, nil)
	b.do(t, chromedp.WaitNotVisible(chromedp.CSS("#lost")))
	b.become(t, `document.getElementById("role").textContent === "waiting, not ready"`)
	if text := b.text(t); !strings.Contains(text, "connect to PostgreSQL: connection refused") {
		t.Errorf("while the stream is down:\n%s", text)
	}
	if title := b.eval(t, "document.title"); title != "not ready: outboxd outboxd" {
		t.Errorf("the title is %v", title)
	}
	b.quiet(t, again.url, "ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET", "503")
}
