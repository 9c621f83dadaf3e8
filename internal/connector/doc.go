// Package connector is the life of a run: it opens a session, keeps it, tries again
// after a fault, and stops. It joins the stages and starts nothing that it does not
// wait for.
//
// # Rooms
//
//	PostgreSQL ──WAL──▶ replication ─┐ Source                           Sink
//	    ▲               backfill   ──┼──▶ flow: decoder ─▶ router ─▶ format ─▶ sink ──▶ Kafka
//	    │               replay     ──┘      │ Add, Commit                       │ Acknowledge
//	    │                                   ▼                                   │
//	    └── Confirm ◀── look ◀── Committer ◀── Tracker ◀────────────────────────┘
//	                               │  ▲
//	                             Store └── guarantee.Keeper: when
//
// offsets.Decide says where to start, and this package does the steps that it names
// (start.go). Connection, Stream and Observer (upstream.go) are what is needed of
// PostgreSQL: a test or a simulator replaces them.
//
// Data moves one way, on one goroutine, and nothing on that way waits for Kafka: the
// stream itself waits when too many bytes are unacknowledged, and keeps the server
// informed meanwhile. Where an event cannot be judged without an answer of the brokers
// or the registry, the sink waits, and PostgreSQL is served meanwhile; so it is where, with
// exactly_once, the flow waits at the gate for a transaction to end (after a refusal,
// while the records of a topic go one by one).
//
// # Sessions
//
// A session is one replication connection.
//
//	     ┌────────────────────── backoff ◀──────────────────────────────┐
//	     ▼                                                              │
//	mayBegin ──▶ (backfill) ──▶ connect, start ──▶ streaming            │
//	     │            │          │         │         │                  │
//	     │            │          │ slot    │ fault   ├─ PostgreSQL or registry fails ── settle: wait for
//	     │ taken      │ poison   │ in use  │         │        Kafka, store; the sink lives on ────────────▶ backoff
//	     │ over       │          ▼         ▼         ├─ a delivery fails, or a panic ── abandon: store what
//	     │            │      stand by    backoff     │        is acknowledged; the sink is replaced ───────▶ backoff
//	     ▼            ▼                              ├─ poison ──── drain ──────────────────────────────────▶ exit 1
//	   exit 1       exit 1       refused: exit 3     └─ told to stop ── finish the transaction, drain ──────▶ exit 0
//
// A fault of PostgreSQL ends the session only, and the next one resumes behind what was
// sent. A failed delivery ends the sink, too, once the brokers have answered what it has
// sent, and the next session resumes at the confirmed position; with exactly_once that is
// what is committed. A fault of the store ends the session as one of PostgreSQL does. A
// panic, an outbox that is not published any more, and whatever else permanent names, ends
// the run after that. A run that is told to stop while it has no session, or that a fault
// meets while it stops, reads what was sent and is not confirmed once more, to the end of
// its transaction, and has it delivered and confirmed, over new connections (finish). The
// rule for the exit code is in stop.go.
//
// # Goroutines
//
// Run waits for all of them.
//
//	goroutine                     owns                              is woken by
//	Run                           Connector, session, stream,       a frame, a keepalive, memory that is freed,
//	                              flow, tracker's open transaction  Interrupt, Confirm, the time of a status update
//	limit                         nothing; ends limits.acks, .all   the stop, its deadlines, the second signal
//	watchSlot                     nothing                           every 15 s
//	session.interrupt             nothing                           the stop, the sink's failure, limits.acks
//	session.keepPositions         committer, keeper                 confirm_interval; a transaction that has begun
//	session.observe               looks                             a position to confirm, or 10 s
//	Options.Beside.Run            rows that are delivered            its own interval
//	watch                         what the log said of Kafka and    every second
//	                              the store
//	awaitAcknowledgements (one)   nothing                           the last acknowledgement, the sink's failure,
//	                                                                the drain's deadline
//	backfill: failure, progress,  nothing                           the sink's failure; 5 s; 5 s
//	  Snapshot.Watch
//	replay: interrupter           nothing                           the end of the context, the sink's failure
//	sink: alive, askAll, await,   the topics that are asked about   a tenth of the pause limit; a new topic; Send;
//	  awaitTurn                                                     1 ms
//	Kafka client (its own)        acknowledgements: Memory.Release, the brokers' answers
//	                              Transaction.Acknowledge
//	stream: the question          nothing                           20 s of silence
//
// What two of them share: keeper and flow the gate (with exactly_once), so that a
// transaction is closed between two events; keepPositions and observe session.acked;
// anybody the stream by Interrupt and Confirm. After streamUntil only Run is left, and
// owns all of it.
package connector
