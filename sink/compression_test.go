package sink

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// records are bytes as they are in a batch: little differs from one to the next.
func records(n int) []byte {
	var b []byte
	for i := range n {
		b = fmt.Appendf(b, "order-%d{\"n\": %d, \"text\": \"%0240x\", \"amount\": \"12.50\"}id%032xtypeplacedaggregate_id", i%5000, i, i*7919, i*104729)
	}
	return b
}

// A batch of any size comes back, from the client's own decompressor.
func TestLZ4(t *testing.T) {
	c := newLZ4()
	for _, n := range []int{0, 1, 150, 2000, 12_000} { // one block, more than one, as much as the client's blocks
		src := records(n)
		var dst bytes.Buffer
		for range 2 { // a writer is used again
			dst.Reset()
			frame, codec := c.Compress(&dst, src)
			if codec != kgo.CodecLz4 {
				t.Fatalf("%d records: codec %d", n, codec)
			}
			if n > 0 && len(frame) > len(src)/2 {
				t.Errorf("%d records: %d bytes of %d", n, len(frame), len(src))
			}
			got, err := kgo.DefaultDecompressor().Decompress(bytes.Clone(frame), codec)
			if err != nil || !bytes.Equal(got, src) {
				t.Errorf("%d records: %d bytes come back of %d, %v", n, len(got), len(src), err)
			}
		}
	}
}

func BenchmarkCompression(b *testing.B) {
	theirs, err := kgo.DefaultCompressor(kgo.Lz4Compression())
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{5, 50, 500, 2000} {
		src := records(n)
		for _, c := range []struct {
			name string
			kgo.Compressor
		}{{"ours", newLZ4()}, {"client", theirs}} {
			b.Run(fmt.Sprintf("%s/records=%d", c.name, n), func(b *testing.B) {
				var dst bytes.Buffer
				b.SetBytes(int64(len(src)))
				b.ReportAllocs()
				for range b.N {
					dst.Reset()
					c.Compress(&dst, src)
				}
				b.ReportMetric(float64(dst.Len())/float64(len(src)), "ratio")
			})
		}
	}
}
