package pace

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// So many events take as long as the rate says, also after a pause, which is not made up
// for; without a rate they take no time.
func TestPace(t *testing.T) {
	for _, perSecond := range []int{0, 1, 7, 100, 5_000, 1_000_000} {
		synctest.Test(t, func(t *testing.T) {
			p := New(perSecond)
			seconds := 5
			for _, pause := range []time.Duration{0, time.Hour, carried + 1} {
				time.Sleep(pause)
				began := time.Now()
				for range perSecond * seconds {
					if err := p.Wait(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				took, want := time.Since(began), time.Duration(seconds)*time.Second
				if perSecond == 0 {
					want = 0
				}
				if took > want || took < want-2*step {
					t.Errorf("%d a second: %d took %s after a pause of %s", perSecond, perSecond*seconds, took, pause)
				}
			}
		})
	}
}

// What takes its caller longer than the rate is not slowed down further.
func TestSlowerThanThePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(1000)
		began := time.Now()
		for range 1000 {
			time.Sleep(2 * time.Millisecond)
			if err := p.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestPaceEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("stopped")
		time.AfterFunc(time.Second, func() { cancel(stop) })
		p := New(1)
		var err error
		for err == nil {
			err = p.Wait(ctx)
		}
		if !errors.Is(err, stop) {
			t.Error(err)
		}
	})
}
