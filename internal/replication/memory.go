package replication

import "outboxd/internal/memory"

// A stream reads into blocks of a ledger; these are its names here.
type (
	Memory = memory.Ledger
	Block  = memory.Block
	Buffer = memory.Buffer
)

// NewMemory returns a bound of so many bytes.
func NewMemory(limit int64) *Memory { return memory.New(limit) }

// NewBuffer returns an empty buffer.
func NewBuffer(m *Memory) *Buffer { return memory.NewBuffer(m) }

const blockSize = memory.BlockSize
