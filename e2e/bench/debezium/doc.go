// Package debezium runs the real Debezium on the real Kafka Connect, so that a
// benchmark can hold outboxd against it: the PostgreSQL connector with the
// outbox event router, on a distributed worker in a process of its own.
//
// [Start] brings up a worker with one of the published [Profile]s and leaves it
// streaming; [CatchUp] measures how fast and at what cost it drains a backlog;
// [Prepare] makes the publication and the slot that a backlog needs.
//
// Everything comes from Maven, once, into the cache of package testbed. Java 17
// or later and Maven must be installed. For Linux only: the measurements are
// read from /proc.
package debezium
