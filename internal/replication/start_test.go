package replication

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// command reads the one message that comes before the copy.
func (srv *server) command() string {
	head := make([]byte, 5)
	if _, err := io.ReadFull(srv.conn, head); err != nil {
		srv.t.Errorf("server: %v", err)
		return ""
	}
	body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
	if _, err := io.ReadFull(srv.conn, body); err != nil {
		srv.t.Errorf("server: %v", err)
	}
	if head[0] != 'Q' {
		srv.t.Errorf("message %q instead of a query", head[0])
	}
	return string(bytes.TrimSuffix(body, []byte{0}))
}

func copyBoth(t *testing.T) []byte {
	b, err := (&pgproto3.CopyBothResponse{}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestStart(t *testing.T) {
	srv, conn := pipe(t)
	s := newStream(conn, paceOf(conn), NewMemory(4*blockSize), never, 0x1_0000_0A00)
	t.Cleanup(s.Close)
	// A stream that has waited long must not send a status before the copy.
	s.statusDue.Store(false)
	s.lastStatus = s.lastStatus.Add(-2 * never)
	begins := slices.Concat(message('N', []byte("SNOTICE\x00\x00")), copyBoth(t), walData(1, []byte("first")))
	commands := make(chan string, 1)
	go func() {
		commands <- srv.command()
		srv.listen()
		srv.write(begins)
	}()
	if err := s.start(startSQL(Options{Slot: "out_1", Publication: `o"b'x`, MessagePrefix: "m", Origin: "none"}, 0x1_0000_0A00)); err != nil {
		t.Fatal(err)
	}
	const want = `START_REPLICATION SLOT "out_1" LOGICAL 1/A00 (proto_version '1', publication_names '"o""b''x"', messages 'true', origin 'none')`
	if got := <-commands; got != want {
		t.Errorf("sent %s\nwant %s", got, want)
	}
	expectFrames(t, s, []string{"data first"})
	// The first thing after that, without a question: where the stream starts.
	go func() {
		srv.status()
		srv.write(walData(2, []byte("second")))
	}()
	expectFrames(t, s, []string{"data second"})
}

// What is not wanted is not named: older servers would refuse it.
func TestStartOnAnOlderServer(t *testing.T) {
	const want = `START_REPLICATION SLOT "s" LOGICAL 0/1 (proto_version '1', publication_names '"p"')`
	for _, origin := range []string{"", "any"} {
		if got := startSQL(Options{Slot: "s", Publication: "p", Origin: origin}, 1); got != want {
			t.Errorf("origin %q: %s\nwant %s", origin, got, want)
		}
	}
}

func TestStartRefused(t *testing.T) {
	for name, c := range map[string]struct {
		answer []byte
		state  string
	}{
		"slot in use": {errorResponse(objectInUse, "replication slot is active"), objectInUse},
		"no copy":     {message('C', []byte("SELECT\x00")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			srv, conn := pipe(t)
			s := newStream(conn, paceOf(conn), NewMemory(4*blockSize), never, 1)
			t.Cleanup(s.Close)
			go func() {
				srv.command()
				srv.write(c.answer)
			}()
			err := s.start(startSQL(Options{Slot: "slot", Publication: "publication"}, 1))
			if err == nil || sqlState(err) != c.state {
				t.Errorf("start returned %v, want SQLSTATE %q", err, c.state)
			}
		})
	}
}
