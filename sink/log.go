package sink

import (
	"fmt"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
)

// clientLog passes the Kafka client's own messages on, one level lower: what
// matters to an operator is said by outboxd itself.
type clientLog struct{ log zerolog.Logger }

func (l clientLog) Level() kgo.LogLevel {
	switch max(l.log.GetLevel(), zerolog.GlobalLevel()) { // the latter changes while the process runs
	case zerolog.TraceLevel:
		return kgo.LogLevelDebug
	case zerolog.DebugLevel:
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelNone
}

func (l clientLog) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	e := l.log.Debug()
	if level == kgo.LogLevelDebug {
		e = l.log.Trace()
	}
	if e == nil {
		return // not wanted at this level
	}
	for i := 0; i+1 < len(keyvals); i += 2 {
		e = e.Interface(fmt.Sprint(keyvals[i]), keyvals[i+1])
	}
	e.Msg("kafka client: " + msg)
}

// refusals stops sending as soon as a broker refuses a batch. The promise of a
// refused record is too late for that:
//
//   - the client reads that a batch is refused, drops everything buffered for
//     its partition, and queues the promises for another goroutine;
//   - before that goroutine runs, Send adds one more record to the partition,
//     and the client sends it, with the sequence number that has become free;
//   - the broker takes it: a later event of a key has overtaken the refused one.
//
// What the client logs of a refused batch it logs before it drops anything, with
// the partition locked; no hook of the client is called at that point. A record
// whose context has ended is not sent. That the message is still this one is
// tested by TestNothingOvertakesARefusedRecord.
type refusals struct {
	clientLog
	stop func()
}

const refusedBatch = "batch in a produce request failed"

// Level lets the message through, which is at this level.
func (r refusals) Level() kgo.LogLevel { return max(r.clientLog.Level(), kgo.LogLevelInfo) }

func (r refusals) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	if msg == refusedBatch {
		r.stop()
	}
	r.clientLog.Log(level, msg, keyvals...)
}
