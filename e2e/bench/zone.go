package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"outboxd/e2e/bench/distance"
	"outboxd/internal/testbed"
)

// zones are catch-ups with a line between the contestants and a Kafka of their own.
// Behind the line is a relay, which reads as soon as it can, as a broker does.
func zones(ctx context.Context, b *bench, s scenario) error {
	address := net.JoinHostPort(distance.Far, "9092")
	o := kafkaOptions()
	o.Advertised = []string{address}
	kafka, err := testbed.StartKafka(ctx, o)
	if err != nil {
		return err
	}
	defer kafka.Close()
	listener, err := b.relayInside(address, kafka.Brokers()[0])
	if err != nil {
		return err
	}
	defer listener.Close()
	near, warm := b.kafka, b.warm
	b.kafka, b.warm = kafka, false
	defer func() { b.kafka, b.warm = near, warm }()
	for _, roundTrip := range []time.Duration{time.Millisecond, 10 * time.Millisecond} {
		b.line.SetRoundTrip(roundTrip)
		form := s
		form.name = fmt.Sprintf("zone-%s", roundTrip)
		form.title = fmt.Sprintf("catch-up, Kafka %s away", roundTrip)
		if err := catchUp(ctx, b, form); err != nil {
			return err
		}
	}
	return b.line.Err()
}
