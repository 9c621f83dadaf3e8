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
	switch l.log.GetLevel() {
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
	for i := 0; i+1 < len(keyvals); i += 2 {
		e = e.Interface(fmt.Sprint(keyvals[i]), keyvals[i+1])
	}
	e.Msg("kafka client: " + msg)
}
