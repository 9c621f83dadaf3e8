package config

import (
	"errors"
	"strconv"
)

// Tuning holds a switch for each thing that makes outboxd faster or smaller and that
// an operator may suspect of a fault. The defaults are right for nearly everybody.
type Tuning struct {
	// DelayReads lets some milliseconds pass before a read from PostgreSQL in heavy
	// traffic, and sizes the receive buffer by the server. Without it the socket is
	// read as soon as it holds something. Defaults to true.
	DelayReads bool `yaml:"delay_reads" default:"true"`
	// DelaySends lets late events wait up to 50ms for others in heavy traffic, and up to
	// 500ms where all topics have 64 partitions or more together, for larger batches. With
	// exactly_once it is 50ms for any number, and transactions last up to 500ms instead of
	// 150ms. Defaults to true.
	DelaySends bool `yaml:"delay_sends" default:"true"`
	// RawSockets makes the system calls of sockets without the Go scheduler, on Linux.
	// Defaults to true.
	RawSockets bool `yaml:"raw_sockets" default:"true"`
	// Processors is how many processors run Go code: auto for one, or up to four
	// while that one is busy; or a number, 1 to 4096. GOMAXPROCS in the environment takes
	// precedence over auto. Defaults to auto.
	Processors Processors `yaml:"processors" default:"auto"`
	// MemoryLimit is the size of the Go runtime's memory above which it collects
	// garbage at once: auto for what kafka.max_buffered leaves it, off for the Go
	// runtime's own settings, or a size, at least 32MiB. GOMEMLIMIT and GOGC in the environment take
	// precedence over auto. Defaults to auto.
	MemoryLimit MemoryLimit `yaml:"memory_limit" default:"auto"`
}

const auto = "auto"

// Processors is a number of processors; 0 is auto. (Of an int, the loader takes no text.)
type Processors int64

// maxProcessors is more than any host has.
const maxProcessors = 4096

// UnmarshalText reads auto or a number.
func (p *Processors) UnmarshalText(text []byte) error {
	if string(text) == auto {
		*p = 0
		return nil
	}
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > maxProcessors {
		return errors.New("is neither auto nor a number of processors, 1 to " + strconv.Itoa(maxProcessors))
	}
	*p = Processors(n)
	return nil
}

// MarshalText returns the text that UnmarshalText reads.
func (p Processors) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// String returns auto or the number.
func (p Processors) String() string {
	if p == 0 {
		return auto
	}
	return strconv.Itoa(int(p))
}

// MemoryLimit is a limit of the Go runtime's memory, in bytes.
type MemoryLimit int64

const (
	AutoMemoryLimit MemoryLimit = 0
	NoMemoryLimit   MemoryLimit = -1 // the Go runtime's own settings
	// minMemoryLimit is about what the program needs for itself. With less the runtime
	// would do nothing but collect garbage.
	minMemoryLimit = MemoryLimit(32 * miB)
)

// UnmarshalText reads auto, off or a size.
func (l *MemoryLimit) UnmarshalText(text []byte) error {
	switch string(text) {
	case auto:
		*l = AutoMemoryLimit
		return nil
	case "off":
		*l = NoMemoryLimit
		return nil
	}
	var size ByteSize
	if size.UnmarshalText(text) != nil || MemoryLimit(size) < minMemoryLimit {
		return errors.New("is neither auto nor off nor a size such as 256MiB, at least " + minMemoryLimit.String())
	}
	*l = MemoryLimit(size)
	return nil
}

// MarshalText returns the text that UnmarshalText reads.
func (l MemoryLimit) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// String returns auto, off or the size.
func (l MemoryLimit) String() string {
	switch l {
	case AutoMemoryLimit:
		return auto
	case NoMemoryLimit:
		return "off"
	}
	return ByteSize(l).String()
}
