package replication

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/rs/zerolog"
)

// begin and commit are messages of a transaction, as pgoutput makes them.
func begin(commitLSN uint64) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{'B'}, commitLSN), make([]byte, 12)...)
}

func commit(lsn, end uint64) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'C', 0}, lsn)
	return append(binary.BigEndian.AppendUint64(b, end), make([]byte, 8)...)
}

// Positions that no WAL has are an error before anybody can confirm them.
func TestPositionsThatWALCannotHave(t *testing.T) {
	const start, tebibyte = 0x1_0000_0000, 1 << 40
	for _, test := range []struct {
		name   string
		stream []byte
		good   int // frames before the error
		says   string
	}{
		{"keepalive at the end of all WAL", keepalive(1<<64-1, false), 0, "FFFFFFFF/FFFFFFFF"},
		{"keepalive too far", slices.Concat(keepalive(start+tebibyte, false), keepalive(start+2*tebibyte+1, true)), 1, "names position"},
		{"commit end too far", slices.Concat(walData(start, begin(start+8)), walData(start+8, commit(start+8, 1<<64-2))), 1, "FFFFFFFF/FFFFFFFE"},
		{"data too far", walData(1<<63, []byte("I")), 0, "names position"},
		{"commits that go back", slices.Concat(
			walData(start+8, begin(start+8)), walData(start+8, commit(start+8, start+16)),
			walData(start+16, begin(start+16)), walData(start+16, commit(start+16, start+24)), // right behind it
			walData(start+23, begin(start+23))), 4, "comes after one that ended at 1/18"},
		{"the same commit again", slices.Concat(
			walData(start+8, begin(start+8)), walData(start+8, commit(start+8, start+16)), walData(start+8, begin(start+8))), 2, "comes after"},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv, s := newServer(t, NewMemory(4*blockSize), never, start)
			s.floor = start
			go srv.write(test.stream)
			for range test.good {
				if _, err := s.Next(); err != nil {
					t.Fatal(err)
				}
			}
			f, err := s.Next()
			var advice *Error
			if !errors.Is(err, ErrProtocol) || !errors.As(err, &advice) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %+v, %v; want ErrProtocol with %q", f, err, test.says)
			}
			if s.newest > start+tebibyte {
				t.Errorf("the position %s is taken for one that is known", pglogrepl.LSN(s.newest))
			}
		})
	}
	// A slot that is far behind, and rows whose positions go back within what is
	// right, are no error.
	srv, s := newServer(t, NewMemory(4*blockSize), never, start)
	s.floor = start + 5*tebibyte
	go srv.write(slices.Concat(keepalive(start+6*tebibyte, false), walData(start+50, begin(start+90)), walData(start+20, []byte("I")), keepalive(start, false)))
	for range 4 {
		if _, err := s.Next(); err != nil {
			t.Fatal(err)
		}
	}
}

// A frame takes memory as it comes, not as it claims, and is whole in the end.
func TestFrameTakesMemoryAsItComes(t *testing.T) {
	for _, limit := range []int64{64 << 20, 2 << 30} {
		memory := NewMemory(limit)
		srv, s := newServer(t, memory, never, 1)
		ended := make(chan error, 1)
		go func() {
			_, err := s.Next()
			ended <- err
		}()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		srv.write([]byte{'d', 0x40, 0, 0, 0, 'w'})
		srv.write(make([]byte, 100))
		runtime.ReadMemStats(&after)
		if used, heap := memory.Used(), int64(after.TotalAlloc-before.TotalAlloc); used > 20<<20 || heap > 20<<20 {
			t.Errorf("106 bytes take %d bytes of the memory, and %d of the heap", used, heap)
		}
		srv.conn.Close()
		if err := wait(t, ended); err == nil {
			t.Error("no error")
		}
		s.Close()
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 90<<20/16)
	memory := NewMemory(64 << 20)
	srv, s := newServer(t, memory, never, 1)
	go srv.write(slices.Concat(walData(1, []byte("before")), walData(2, large), walData(3, []byte("after"))))
	expectFrames(t, s, []string{"data before", "data " + string(large), "data after"})
	s.Close()
	if memory.Used() != 0 {
		t.Errorf("%d bytes are in use after the stream was closed", memory.Used())
	}
}

// What a server says again and again, or at great length, does not fill the log.
func TestWarningsAreBounded(t *testing.T) {
	var log bytes.Buffer
	srv, s := newServer(t, NewMemory(4*blockSize), never, 1)
	s.log = zerolog.New(&log)
	warning := func(text string) []byte {
		b, err := (&pgproto3.NoticeResponse{Severity: "WARNING", Code: "01000", Message: text, Detail: text, Hint: text}).Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	go func() {
		for i := range 100 {
			srv.write(warning("the same"))
			srv.write(warning(fmt.Sprintf("warning %d %s", i, strings.Repeat("ä", 1<<16))))
		}
		srv.write(walData(1, []byte("on")))
	}()
	expectFrames(t, s, []string{"data on"})
	if n := strings.Count(log.String(), "\n"); n != maxWarnings || log.Len() > 4*maxWarnings*maxText {
		t.Errorf("200 warnings are %d lines and %d bytes in the log", n, log.Len())
	}
	log.Reset()
	s.warnings.since = time.Now().Add(-warningsEvery)
	go srv.write(slices.Concat(warning("another"), walData(2, []byte("on"))))
	expectFrames(t, s, []string{"data on"})
	if !strings.Contains(log.String(), "another") || !strings.Contains(log.String(), `"not_logged":96`) {
		t.Errorf("later the log has %s", log.String())
	}
}

// An error of the server is as long as can be read, and that of decoding has where it
// happened.
func TestServerErrorTellsWhere(t *testing.T) {
	for _, test := range []struct {
		where string
		lsn   pglogrepl.LSN
	}{
		{`slot "orders", output plugin "pgoutput", in the change callback, associated LSN 0/1A2B3C8`, 0x1A2B3C8},
		{"COPY x\nSlot »orders«, Ausgabe-Plugin \"pgoutput\", im Callback change, zugehörige LSN 12/F", 0x12_0000_000F},
		{`slot "orders", output plugin "pgoutput", in the startup callback`, 0},
		{`PL/pgSQL function f() line 1/2`, 0},
		{"", 0},
	} {
		b, err := (&pgproto3.ErrorResponse{Severity: "ERROR", Code: "XX000", Message: "invalid memory alloc request size 1258291203", Where: test.where}).Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		srv, s := newServer(t, NewMemory(4*blockSize), never, 1)
		go srv.write(b)
		_, err = s.Next()
		var failed *ServerError
		var pgErr *pgconn.PgError
		if !errors.As(err, &failed) || failed.LSN != test.lsn || !errors.As(err, &pgErr) || sqlState(err) != "XX000" {
			t.Errorf("%q: %#v", test.where, err)
			continue
		}
		if shown := strings.Contains(err.Error(), strings.ReplaceAll(test.where, "\n", "; ")); test.lsn != 0 && !shown {
			t.Errorf("the error does not have its context: %v", err)
		}
		if !strings.Contains(err.Error(), "invalid memory alloc request size 1258291203 (SQLSTATE XX000)") {
			t.Errorf("the error does not have the server's words: %v", err)
		}
	}
	srv, s := newServer(t, NewMemory(4*blockSize), never, 1)
	go srv.write(errorResponse("XX000", strings.Repeat("ä", 800_000)))
	if _, err := s.Next(); err == nil || len(err.Error()) > 2*maxText {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}
