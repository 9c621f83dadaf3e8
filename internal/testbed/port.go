package testbed

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
)

// port is a TCP port on 127.0.0.1 that stays ours, also while the server that
// uses it is down, until it is released.
type port struct {
	number int
	claim  io.Closer
}

// takePort finds a free port below the kernel's ephemeral range. Listening on
// port 0 would give one inside that range, and such a port is not safe across
// a restart: a client that retries to connect while nothing listens may be
// given the very same number as its own port, connects to itself, and the
// server can no longer bind.
func takePort() (*port, error) {
	first, end := 20000, ephemeralStart()
	if end-first < 1000 {
		first, end = 10000, 20000
	}
	for range 1000 {
		n := first + rand.IntN(end-first)
		claim, err := claimPort(n)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(n)))
		if err != nil {
			_ = claim.Close()
			continue
		}
		_ = l.Close()
		return &port{number: n, claim: claim}, nil
	}
	return nil, errors.New("find a free TCP port: none in 1000 tries")
}

func (p *port) addr() string { return fmt.Sprintf("127.0.0.1:%d", p.number) }

func (p *port) release() {
	if p != nil {
		_ = p.claim.Close()
	}
}
