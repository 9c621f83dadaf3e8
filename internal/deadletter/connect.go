package deadletter

import (
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/poison"
)

// connectStage is in which of Kafka Connect's stages each kind would fail
// (org.apache.kafka.connect.runtime.errors.Stage), and with which exception.
var connectStages = map[poison.Kind]struct{ stage, exception string }{
	poison.IllegalTopic:   {"TRANSFORMATION", "org.apache.kafka.common.errors.InvalidTopicException"},
	poison.ForbiddenTopic: {"TRANSFORMATION", dataException},
	poison.NoRoute:        {"TRANSFORMATION", dataException},
	poison.NullKey:        {"KEY_CONVERTER", dataException},
	poison.Partition:      {"TRANSFORMATION", dataException},
	poison.Headers:        {"HEADER_CONVERTER", dataException},
	poison.MissingField:   {"TRANSFORMATION", dataException},
	poison.NullPayload:    {"TRANSFORMATION", dataException},
	poison.Schema:         {"VALUE_CONVERTER", dataException},
	poison.Mask:           {"TRANSFORMATION", dataException},
	poison.Encoding:       {"VALUE_CONVERTER", dataException},
	poison.TooLarge:       {"KAFKA_PRODUCE", "org.apache.kafka.common.errors.RecordTooLargeException"},
	poison.Timestamp:      {"KAFKA_PRODUCE", "org.apache.kafka.common.errors.InvalidTimestampException"},
	poison.ColumnMissing:  {"TASK_POLL", dataException},
	poison.Undecodable:    {"TASK_POLL", dataException},
	poison.Refused:        {"KAFKA_PRODUCE", "org.apache.kafka.common.InvalidRecordException"},
}

const dataException = "org.apache.kafka.connect.errors.DataException"

// connectHeaders are those of Kafka Connect's DeadLetterQueueReporter (Kafka 4.3), for
// tools that look for them. Connect names a record that was consumed; the event's place
// is that of its transaction's commit.
func connectHeaders(l *Letter, reason string) (headers []kgo.RecordHeader) {
	at := connectStages[l.Kind]
	for _, h := range [][2]string{
		{"topic", l.Topic[:min(len(l.Topic), maxTopic)]},
		{"partition", "0"},
		{"offset", strconv.FormatUint(uint64(l.Position.CommitLSN), 10)},
		{"connector.name", l.Event.Slot},
		{"task.id", "0"},
		{"stage", at.stage},
		{"class.name", "outboxd"},
		{"exception.class.name", at.exception},
		{"exception.message", reason},
	} {
		headers = append(headers, kgo.RecordHeader{Key: "__connect.errors." + h[0], Value: []byte(h[1])})
	}
	return headers
}
