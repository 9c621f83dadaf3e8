// Package offsets knows which WAL position is safe to confirm, stores it, and
// is the only place that can say so.
//
// The invariant of the whole program lives here:
//
//   - A position is the end of a transaction, as the walsender named it
//     (Commit.TransactionEndLSN, or the WAL end of a keepalive). Nothing is
//     ever added to a position and no position is guessed.
//   - Inside a transaction a store may know a finer one: the commit LSN and
//     number of an event with no gap before it. It is never confirmed to PostgreSQL.
//   - A position is confirmed only when Kafka has acknowledged every event of
//     its transaction and of all transactions before it in commit order.
//   - Confirmed positions never go backwards.
//   - After the first failed delivery nothing is confirmed any more; the run
//     starts again from the last confirmed position.
//
// Tracker finds the position, Committer stores it and passes it on, Resume
// decides at a start whether a remembered position can still be trusted.
//
// The rules come from "Streaming Replication Protocol" (Standby status update)
// and "Logical Decoding Concepts" (replication slots) in the PostgreSQL
// documentation: a server may discard all WAL up to the flush position that a
// client reports, and sends again every transaction whose commit lies behind it.
package offsets
