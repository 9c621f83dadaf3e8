package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"outboxd/internal/connector"
)

// Signals within a second are one stop: timeout(1) signals the process and its group.
func TestSignalsOfOneStop(t *testing.T) {
	for _, test := range []struct {
		after []time.Duration // of the signals that follow the first
		hurry bool
	}{
		{nil, false},
		{[]time.Duration{0}, false},
		{[]time.Duration{500 * time.Millisecond, 900 * time.Millisecond}, false},
		{[]time.Duration{sameStop}, true},
		{[]time.Duration{0, 10 * time.Second}, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := make(chan os.Signal)
			stopped, hurried := false, false
			go func() {
				stopBy(c, func() { stopped = true }, func() { hurried = true })
				for range c { // later ones are of no interest
				}
			}()
			synctest.Wait()
			if stopped {
				t.Fatal("stopped without a signal")
			}
			first := time.Now()
			c <- syscall.SIGTERM
			synctest.Wait()
			if !stopped || hurried {
				t.Errorf("after the first signal: stopped %t, hurried %t", stopped, hurried)
			}
			for _, after := range test.after {
				time.Sleep(time.Until(first.Add(after)))
				c <- syscall.SIGTERM
			}
			synctest.Wait()
			if hurried != test.hurry {
				t.Errorf("signals after %v: hurried %t", test.after, hurried)
			}
			c <- syscall.SIGTERM // ends the goroutine where it still waits
			time.Sleep(sameStop)
			if !hurried {
				c <- syscall.SIGTERM
			}
			synctest.Wait()
			close(c)
		})
	}
}

// A stop that hangs is left behind: after its limit, or soon after a second signal.
func TestStopThatHangs(t *testing.T) {
	const limit = 28 * time.Second
	for _, second := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			hurry, hurryNow := context.WithCancel(t.Context())
			defer hurryNow()
			hang := make(chan struct{})
			defer close(hang)
			go func() {
				time.Sleep(time.Hour)
				cancel()
				if second {
					time.Sleep(5 * time.Second)
					hurryNow()
				}
			}()
			begin := time.Now()
			err := guarded(ctx, hurry, limit, func(context.Context, context.Context) error { <-hang; return nil })
			want := time.Hour + limit
			if second {
				want = time.Hour + 5*time.Second + hurryMargin
			}
			if took := time.Since(begin); !errors.Is(err, connector.ErrUnclean) || took != want {
				t.Errorf("second signal %t: %v after %s, want %s", second, err, took, want)
			}
		})
	}
	want := errors.New("its own")
	if err := guarded(t.Context(), t.Context(), limit, func(context.Context, context.Context) error { return want }); err != want {
		t.Errorf("without a stop: %v", err)
	}
}

// A stage that cannot work as it is configured is a bad configuration, whoever found
// it.
func TestConfigurationFoundLate(t *testing.T) {
	var stderr bytes.Buffer
	if code := report(failed(fmt.Errorf("%w: kafka.linger", connector.ErrConfiguration)), &stderr); code != exitUsage {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
}

// A panic is never a bad configuration.
func TestPanicIsFailed(t *testing.T) {
	err := guarded(t.Context(), t.Context(), time.Second, func(context.Context, context.Context) error { panic("nil map") })
	var stderr bytes.Buffer
	if code := report(failed(err), &stderr); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if line := stderr.String(); !errors.Is(err, connector.ErrPanic) || !strings.Contains(line, "nil map") || !strings.Contains(line, "report") || strings.Count(line, "\n") != 1 {
		t.Errorf("says %q", line)
	}
}
