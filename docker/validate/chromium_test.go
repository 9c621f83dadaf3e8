package validate

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// chromium returns the machine's own browser, else Debian's with what it needs, unpacked
// into the cache and not installed; and the environment it wants.
func chromium(t *testing.T) (path string, env []string) {
	t.Helper()
	if path, err := exec.LookPath("chromium"); err == nil {
		return path, nil
	}
	dir := cachedTool(t, "docker-check-chromium", func(dir string) error {
		debs := filepath.Join(dir, "debs")
		if err := os.MkdirAll(filepath.Join(debs, "partial"), 0o755); err != nil {
			return err
		}
		fetch := func() error {
			return command("apt-get", "install", "-y", "-qq", "--no-install-recommends", "--reinstall", "--download-only", "-o", "Dir::Cache::archives="+debs,
				"chromium", "fonts-dejavu-core")
		}
		if err := fetch(); err != nil {
			// A machine that has no package lists yet.
			if err := errors.Join(command("apt-get", "update", "-qq"), fetch()); err != nil {
				return err
			}
		}
		return command("sh", "-c", fmt.Sprintf(`cd %q && for deb in debs/*.deb; do dpkg-deb -x "$deb" . || exit 1; done && rm -r debs`, dir))
	})
	libraries, err := filepath.Glob(filepath.Join(dir, "usr/lib/*-linux-gnu"))
	if further, _ := filepath.Glob(filepath.Join(dir, "usr/lib/*-linux-gnu/pulseaudio")); further != nil {
		libraries = append(libraries, further...)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(libraries) > 0 { // those that the machine lacks
		env = []string{"LD_LIBRARY_PATH=" + strings.Join(libraries, ":")}
	}
	return filepath.Join(dir, "usr/lib/chromium/chromium"), env
}

// browser is a tab, and what was seen in it.
type browser struct {
	ctx context.Context

	mu       sync.Mutex
	problems []string // what its console said
	asked    []string // the URLs that it asked for
}

// newBrowser opens a tab without memory of others.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	path, env := chromium(t)
	b := &browser{}
	ctx, cancel := chromedp.NewContext(t.Context(), chromedp.WithListener(b.see), chromedp.WithAllocatorOptions(
		chromedp.ExecPath(path), chromedp.Env(env...), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()), chromedp.Flag("lang", "en")))
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		cancel()
	})
	b.ctx = ctx
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, log.Enable, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// see notes an event of the tab.
func (b *browser) see(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		b.asked = append(b.asked, e.Request.URL)
	case *cdpruntime.EventExceptionThrown:
		b.problems = append(b.problems, fmt.Sprintf("%s: %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
	case *log.EventEntryAdded:
		b.problems = append(b.problems, e.Entry.Text)
	}
}

// do waits for actions, each for no longer than a slow machine takes.
func (b *browser) do(t *testing.T, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	for i, action := range actions {
		ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
		err := chromedp.Do(ctx, action)
		cancel()
		if err != nil {
			t.Fatalf("action %d: %v; the page shows:\n%s\nthe console says: %q", i+1, err, b.text(t), b.problems)
		}
	}
}

// become waits until a script gives true.
func (b *browser) become(t *testing.T, script string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); b.eval(t, script) != true; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s; the page shows:\n%s", script, b.text(t))
		}
	}
}

// theme is what the reader prefers: light or dark.
func (b *browser) theme(t *testing.T, theme string) {
	t.Helper()
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}}); err != nil {
		t.Fatal(err)
	}
}

// eval returns what a script gives.
func (b *browser) eval(t *testing.T, script string) any {
	t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[any](script))
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return value
}

// text is what the reader of the page sees of it.
func (b *browser) text(t *testing.T) string {
	t.Helper()
	return fmt.Sprint(b.eval(t, "document.body.innerText"))
}

// quiet checks that the page made no error and broke none of its own rules, and asked
// nobody but its server.
func (b *browser) quiet(t *testing.T, server string, but ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
problems:
	for _, problem := range b.problems {
		for _, allowed := range but {
			if strings.Contains(problem, allowed) {
				continue problems
			}
		}
		t.Errorf("the console says: %s", problem)
	}
	for _, asked := range b.asked {
		u, err := url.Parse(asked)
		if err != nil || u.Scheme != "data" && !strings.HasPrefix(asked, server+"/") {
			t.Errorf("the page asks %s", asked)
		}
	}
	if len(b.asked) == 0 {
		t.Error("no request was seen")
	}
}
