package sink

import (
	"sync"
)

// Learned is what sinks of one run hand on to those that follow on them, and to other clients
// of the cluster: what a refusal has taught about a topic, and which listeners have answered.
// Any goroutine may use it.
type Learned struct {
	mu     sync.Mutex
	topics map[string]lesson

	manyWarned, throttleSaid sync.Once

	listeners listeners
}

// lesson is what is known of a topic before its first record. The zero value is that
// of nearly every topic.
type lesson struct {
	// careful: every record waits until the topic's limits are known.
	careful bool
	// windowed: it has had records that are larger than its batches may be.
	windowed bool
	// most is how large a batch may be where the brokers do not say; 0: the default.
	most int
	// suspects are to be sent one by one, so that a refusal is about one of them.
	suspects suspects
	aged     bool // its retention was warned about
}

// NewLearned returns an empty one.
func NewLearned() *Learned { return &Learned{topics: make(map[string]lesson)} }

func (l *Learned) of(topic string) lesson {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.topics[topic]
	of.suspects = of.suspects.clone()
	return of
}

func (l *Learned) change(topic string, f func(*lesson)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lesson, known := l.topics[topic]
	if !known && len(l.topics) >= maxTopics {
		clear(l.topics) // to be learned again, where it still holds
	}
	f(&lesson)
	l.topics[topic] = lesson
}
