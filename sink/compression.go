package sink

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

// compression returns the client's option for a codec, and the codec itself, nil for
// none.
func compression(name string) (kgo.Opt, kgo.Compressor, error) {
	var codec kgo.CompressionCodec
	switch name {
	case "none":
		return kgo.ProducerBatchCompression(kgo.NoCompression()), nil, nil
	case "lz4":
		codec := newLZ4()
		return kgo.WithCompressor(codec), codec, nil
	case "gzip":
		codec = kgo.GzipCompression()
	case "snappy":
		codec = kgo.SnappyCompression()
	case "zstd":
		codec = kgo.ZstdCompression()
	default:
		return nil, nil, fmt.Errorf("kafka.compression: unknown codec %q", name)
	}
	compressor, err := kgo.DefaultCompressor(codec)
	return kgo.ProducerBatchCompression(codec), compressor, err
}

// lz4Compressor writes the frames that Kafka's own producer writes: blocks of
// 64 KiB and no checksum of the content, which a batch's CRC covers already. The
// client's own has blocks of 4 MiB, so that it copies each batch into one first,
// holds two of them for as long as it lives, and compresses a block that is larger
// than the processor's caches: two thirds of the speed with batches of some
// hundred records (BenchmarkCompression).
type lz4Compressor struct{ writers sync.Pool }

func newLZ4() *lz4Compressor {
	return &lz4Compressor{sync.Pool{New: func() any {
		w := lz4.NewWriter(nil)
		if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false)); err != nil {
			panic(err) // both exist
		}
		return w
	}}}
}

// Compress implements kgo.Compressor. After an error the batch goes uncompressed.
func (c *lz4Compressor) Compress(dst *bytes.Buffer, src []byte, _ ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	w := c.writers.Get().(*lz4.Writer)
	defer c.writers.Put(w)
	w.Reset(dst)
	if _, err := w.Write(src); err != nil {
		return nil, kgo.CodecError
	}
	if err := w.Close(); err != nil {
		return nil, kgo.CodecError
	}
	return dst.Bytes(), kgo.CodecLz4
}
