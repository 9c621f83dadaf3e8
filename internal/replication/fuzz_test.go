package replication

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/jackc/pglogrepl"
)

// FuzzStream cuts what a server sends anywhere: the frames are those of a reader that
// has all of it at once, and no memory is left behind.
func FuzzStream(f *testing.F) {
	stream, _ := sample()
	f.Add(stream, uint16(7))
	f.Add(slices.Concat(keepalive(900, true), message('N', []byte("SWARNING\x00Mtext\x00\x00")), walData(5, begin(8)), message('c', nil)), uint16(1))
	f.Add([]byte{'d', 0x40, 0, 0, 0, 'w', 1, 2}, uint16(3))
	f.Add(walData(1, make([]byte, 3*worthCutting)), uint16(60_000))
	f.Fuzz(func(t *testing.T, b []byte, size uint16) {
		memory := NewMemory(4 * blockSize)
		srv, s := newServer(t, memory, never, 1)
		go func() {
			for chunk := range slices.Chunk(b, int(size)+1) {
				srv.write(chunk)
			}
			srv.conn.Close()
		}()
		want := plainFrames(b)
		for i := 0; ; i++ {
			frame, err := s.Next()
			if err != nil && i == len(want) {
				break
			}
			if err != nil || i == len(want) || text(frame) != want[i] {
				t.Fatalf("frame %d is %.100q, %v; want %.100q of %d", i, text(frame), err, want[min(i, len(want)):], len(want))
			}
		}
		s.Close()
		if memory.Used() != 0 {
			t.Errorf("%d bytes are in use after the stream was closed", memory.Used())
		}
	})
}

// worthCutting makes a frame that needs more than a block.
const worthCutting = 100 << 10

// plainFrames reads frames until something is wrong.
func plainFrames(b []byte) (frames []string) {
	var order walOrder
	for len(b) >= 5 {
		n := binary.BigEndian.Uint32(b[1:])
		if n < 4 || n > maxFrame || uint64(len(b)) < uint64(n)+1 {
			return frames
		}
		typ, body := b[0], b[5:1+n]
		b = b[1+n:]
		switch {
		case typ == 'S':
		case typ == 'N':
			if (&Stream{}).notice(body) != nil {
				return frames
			}
		case typ == 'd' && len(body) >= 25 && body[0] == 'w':
			if order.checkMessage(binary.BigEndian.Uint64(body[1:]), body[25:]) != nil {
				return frames
			}
			frames = append(frames, text(Frame{Kind: WALData, Data: body[25:]}))
		case typ == 'd' && len(body) == 18 && body[0] == 'k':
			end := binary.BigEndian.Uint64(body[1:])
			if order.reach(end) != nil {
				return frames
			}
			frames = append(frames, text(Frame{Kind: Keepalive, WALEnd: pglogrepl.LSN(end)}))
		default:
			return frames
		}
	}
	return frames
}
