package sink

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// BenchmarkManyTopics sends the first event of each of 5,000 topics, ten a
// millisecond. Its CPU time is the client's and the broker's together.
func BenchmarkManyTopics(b *testing.B) {
	const topics = 5_000
	for b.Loop() {
		c := broker(b, 0, kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1))
		k := open(b, c, func(o *Options) { o.Client = nil })
		e := endless{make(chan struct{}, topics)}
		cpu := cpuTime(b)
		for i := range topics {
			e.window <- struct{}{}
			d := k.Next()
			d.fill(1, []byte("{}"))
			d.Topic, d.Key = fmt.Sprint("topic-", i), []byte("k")
			d.Receipt, d.Memory = e, e
			if err := k.Send(d); err != nil {
				b.Fatal(err)
			}
			if i%10 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		for deadline := time.Now().Add(10 * time.Minute); k.InFlight() > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) || k.Err() != nil {
				b.Fatal(k.Err())
			}
		}
		b.ReportMetric((cpuTime(b) - cpu).Seconds(), "cpu-s/op")
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/topics, "B/topic")
		k.Close()
		c.Close()
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
