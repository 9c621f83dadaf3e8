// Package e2e drives the built binary against a real PostgreSQL and a real
// Kafka. One file holds one promise of the README; every scenario ends with the
// same verifier (verify_test.go).
package e2e
