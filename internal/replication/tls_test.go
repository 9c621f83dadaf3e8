package replication

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
)

// tape is the end of a connection that, once the handshake is over, brings what it is
// told in the pieces it is told, and then runs into its deadline. Nobody reads what is
// written to it then.
type tape struct {
	net.Conn
	recorded bool
	pieces   [][]byte
	end      error
	reads    int
}

func (c *tape) Read(b []byte) (int, error) {
	if !c.recorded {
		return c.Conn.Read(b)
	}
	c.reads++
	if len(c.pieces) == 0 {
		return 0, c.end
	}
	n := copy(b, c.pieces[0])
	if c.pieces[0] = c.pieces[0][n:]; len(c.pieces[0]) == 0 {
		c.pieces = c.pieces[1:]
	}
	return n, nil
}

func (c *tape) Write(b []byte) (int, error) {
	if !c.recorded {
		return c.Conn.Write(b)
	}
	return len(b), nil
}

// recorder keeps what is written, once the handshake is over.
type recorder struct {
	net.Conn
	on      bool
	written []byte
}

func (c *recorder) Write(b []byte) (int, error) {
	if !c.on {
		return c.Conn.Write(b)
	}
	c.written = append(c.written, b...)
	return len(b), nil
}

// secured returns a connection as whole makes it of one with TLS, the tape below, and
// a function that makes records of messages, one of each.
func secured(t *testing.T, version uint16) (net.Conn, *tape, func(messages ...[]byte) []byte) {
	t.Helper()
	authority := httptest.NewTLSServer(nil)
	defer authority.Close()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	from, to := &recorder{Conn: theirs}, &tape{Conn: ours, end: os.ErrDeadlineExceeded}
	server := tls.Server(from, &tls.Config{Certificates: authority.TLS.Certificates, SessionTicketsDisabled: true, MaxVersion: version})
	client := tls.Client(&aheadConn{Conn: to}, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	from.on, to.recorded = true, true
	return whole(client), to, func(messages ...[]byte) []byte {
		from.written = nil
		for _, m := range messages {
			if _, err := server.Write(m); err != nil {
				t.Fatal(err)
			}
		}
		return from.written
	}
}

// messages returns some of different lengths, up to a few records long.
func messages(n int) [][]byte {
	made := make([][]byte, n)
	for i := range made {
		made[i] = bytes.Repeat([]byte{byte(i)}, 1+i*i%997)
	}
	made[n/2] = bytes.Repeat([]byte("long"), 10_000)
	return made
}

// One read of the socket, and one of the connection, bring all records that have come.
func TestSecureReadBringsAllRecords(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			conn, below, records := secured(t, version)
			for range 3 {
				sent := messages(20)
				below.pieces, below.reads = [][]byte{records(sent...)}, 0
				b := make([]byte, 1<<20)
				n, err := conn.Read(b)
				if want := slices.Concat(sent...); err != nil || !bytes.Equal(b[:n], want) {
					t.Fatalf("read %d bytes, %v; sent %d", n, err, len(want))
				}
				if below.reads != 1 {
					t.Errorf("%d reads of the socket", below.reads)
				}
			}
		})
	}
}

// Records come in any pieces, and reads have any room, deadlines pass in between: the
// bytes are the same.
func TestSecureReadInPieces(t *testing.T) {
	for seed := range uint64(50) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			conn, below, records := secured(t, tls.VersionTLS13)
			sent := messages(30)
			var got []byte
			for rest := records(sent...); len(rest) > 0; {
				for range random.IntN(4) {
					piece := rest[:min(len(rest), 1+random.IntN(1+random.IntN(20_000)))]
					below.pieces, rest = append(below.pieces, piece), rest[len(piece):]
				}
				for {
					b := make([]byte, 1+random.IntN(1+random.IntN(30_000)))
					n, err := conn.Read(b)
					got = append(got, b[:n]...)
					if errors.Is(err, os.ErrDeadlineExceeded) && len(below.pieces) == 0 {
						break
					}
					if n == 0 || err != nil {
						t.Fatalf("read %d bytes, %v, with %d pieces to come", n, err, len(below.pieces))
					}
				}
			}
			if want := slices.Concat(sent...); !bytes.Equal(got, want) {
				t.Errorf("%d bytes came, of %d, or others", len(got), len(want))
			}
		})
	}
}

// What came before an error is read before it.
func TestSecureReadUpToAnError(t *testing.T) {
	conn, below, records := secured(t, tls.VersionTLS13)
	below.pieces, below.end = [][]byte{records([]byte("one"), []byte("two"))}, io.EOF
	b := make([]byte, 100)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "onetwo" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	if n, err := conn.Read(b); n != 0 || err != io.EOF {
		t.Errorf("read %q, %v at the end", b[:n], err)
	}

	conn, below, records = secured(t, tls.VersionTLS13)
	forged := records([]byte("one"), []byte("two"))
	forged[len(forged)-1]++
	below.pieces = [][]byte{forged}
	n, err := conn.Read(b)
	if string(b[:n]) != "one" || err == nil {
		t.Errorf("read %q, %v of a forged record", b[:n], err)
	}
	if n, again := conn.Read(b); n != 0 || again == nil || again.Error() != err.Error() {
		t.Errorf("read %q, %v after a forged record", b[:n], again)
	}
}

// A stream over TLS has the same frames.
func TestFramesOverTLS(t *testing.T) {
	conn, below, records := secured(t, tls.VersionTLS13)
	s := newStream(conn, paceOf(conn), NewMemory(4*blockSize), never, 1)
	stream, want := sample()
	large := bytes.Repeat([]byte("0123456789abcdef"), blockSize/8)
	all := records(stream, walData(400, large), keepalive(500, false))
	below.pieces = slices.Collect(slices.Chunk(all, 1460))
	expectFrames(t, s, append(want, "data "+string(large), "keepalive 500"))
}

// Without TLS nothing is read ahead.
func TestWholeWithoutTLS(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	if conn := whole(&aheadConn{Conn: ours}); conn != ours {
		t.Errorf("it is a %T", conn)
	}
}
