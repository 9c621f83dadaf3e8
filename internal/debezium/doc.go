// Package debezium reads the configuration of a Debezium PostgreSQL connector with
// the outbox event router, and writes outboxd's equal of it.
//
// Every option is known: it is carried over, or it is harmless and listed as such,
// or it cannot be honoured and is an error that names it. Nothing is passed over in
// silence, since what it would have done would be missed only in production.
package debezium
