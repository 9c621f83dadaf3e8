package replication

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"
)

// ErrProtocol means that the server said what no PostgreSQL says, so that nothing of
// the stream can be trusted.
var ErrProtocol = errors.New("the replication stream makes no sense")

// farthest is how far a position may be beyond the newest that is known: more WAL than
// a server writes between two messages, of which one comes at least every minute.
const farthest = 1 << 40

// walOrder holds the positions that a server names to what WAL allows, before any of
// them is stored or confirmed: a wrong one could never be taken back.
type walOrder struct {
	// floor is where the server's WAL ended when the stream began, newest the highest
	// position of any frame.
	floor, newest uint64
	commitEnd     uint64 // of the last transaction
}

// reach notes a position that the server has come to.
func (o *walOrder) reach(lsn uint64) error {
	if known := max(o.floor, o.newest); lsn > known && lsn-known > farthest {
		return protocolError("the server names position %s, its WAL ended at %s just before", pglogrepl.LSN(lsn), pglogrepl.LSN(known))
	}
	o.newest = max(o.newest, lsn)
	return nil
}

// checkMessage checks a pgoutput message and the position it comes with. Transactions
// come in the order of their commits: the commit record of each begins where the one
// before has ended, or later.
func (o *walOrder) checkMessage(at uint64, m []byte) error {
	if err := o.reach(at); err != nil {
		return err
	}
	switch {
	case len(m) >= 9 && m[0] == 'B': // Int64 LSN of the commit record, …
		if commit := binary.BigEndian.Uint64(m[1:]); commit < o.commitEnd {
			return protocolError("a transaction that was committed at %s comes after one that ended at %s",
				pglogrepl.LSN(commit), pglogrepl.LSN(o.commitEnd))
		}
	case len(m) >= 18 && m[0] == 'C': // Int8 flags, Int64 LSN of the commit, Int64 end LSN, …
		end := binary.BigEndian.Uint64(m[10:])
		if err := o.reach(end); err != nil {
			return err
		}
		o.commitEnd = end
	}
	return nil
}

func protocolError(format string, args ...any) error {
	return &Error{
		Err:  fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, args...)...),
		Hint: "nothing of it was confirmed; see that postgres.dsn names the server itself, and what lies between",
	}
}
