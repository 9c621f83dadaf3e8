// Command setup fetches the servers that the tests run against, so that no test
// waits for it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"outboxd/internal/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	what := os.Args[1:]
	if len(what) == 0 {
		what = []string{"kafka", "debezium", "postgres:13", "postgres:14", "postgres:15", "postgres:16", "postgres:17", "postgres:18", "registry", "avro-tools", "examples"}
	}
	if err := testbed.Fetch(ctx, what...); err != nil {
		fmt.Fprintln(os.Stderr, "setup:", err)
		os.Exit(1)
	}
}
