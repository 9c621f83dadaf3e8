// Package testbed starts real servers for tests, the demo and benchmarks:
// PostgreSQL 13 to 18, Kafka (one broker or a cluster of three) and a schema
// registry, each as child processes on 127.0.0.1, plus a TCP proxy that makes
// networks fail on purpose.
//
// What is not on the machine is fetched once into [CacheDir] by Maven, so the
// first start of each server may take a minute; [Fetch] does that ahead of
// time. Several test binaries may fetch and start servers at the same time.
//
// Every server belongs to whoever started it and must be closed. Should the
// test binary die without doing so, the kernel ends the servers with it; only
// their temporary directories stay behind, and the next start removes those.
//
// The package is written for Linux. PostgreSQL refuses to run as root, so
// under root its processes run as the user postgres, or nobody.
package testbed
