// Package simulate runs the whole connector, many times and within milliseconds,
// against a simulated PostgreSQL and a simulated Kafka that fail in every way that a
// seed can think of, and holds it to what it promises after each step.
//
//	seed ──▶ options, steps (steps.go, faults.go; widen.go)
//	             │
//	             ▼                     one bubble of testing/synctest a seed
//	postgres ◀─ link ─ process ─ link ─▶ kafka      (pipe.go, process.go)
//	   WAL, slot,        the real          franz-go's kfake: sequences,
//	   walsender         connector         transactions, fencing
//	      │                                   │
//	      └────────────▶ verifier ◀───────────┘      (verify.go)
//
// What is real: everything from the bytes of the replication connection to the bytes
// of Kafka's protocol, with the franz-go client between. What is simulated:
//
//   - PostgreSQL (wal.go, postgres.go, walsender.go): WAL in which transactions
//     interleave, a slot by the server's own rules, keepalives that name what was
//     decoded, wal_sender_timeout, crashes, standbys that are promoted, also while they
//     stream, and several of them, of which one is reached at a time. Commands are
//     method calls (connection.go, snapshot.go, replay.go), the stream is bytes.
//   - the network (pipe.go): it is slow, silent, cut, or loses an answer.
//   - the brokers' faults (kafka.go, faults.go, brokers.go), by kfake's own means.
//   - processes (process.go): one that is killed reaches nothing any more; one that is
//     paused reaches nothing until it goes on.
//   - the time of day (clock.go), which is set ahead and back.
//   - time: a bubble's clock stands still while anything can go on, and then jumps.
//
// A seed chooses the configuration, the workload and the faults, but not the order in
// which goroutines run: a seed that fails may have to be run several times to fail
// again. The history that is printed is that of the run that failed.
//
// # What it cannot see
//
//   - what goroutines do between two steps that reach the world: a paused or killed
//     process stops at its next read, write or command, not in the middle of a line;
//   - what a kernel sends after its process is gone. With transactions it may arrive
//     late; without, it arrives at once or never, since nothing could put it right:
//     that is why the guarantee is called at least once, and what exactly_once is for;
//   - several brokers without the build tag synctests: the client holds a lock while it
//     asks for a producer's id, and a goroutine that waits for a lock keeps a bubble's
//     clock from moving (several.go);
//   - commands and the catalog of PostgreSQL: tables that are replaced, publications
//     that change, the queries of a snapshot. Those are e2e's matter;
//   - speed, and memory as the system counts it.
package simulate
