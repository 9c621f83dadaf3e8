package main

// plants are mistakes that others have made, or that were made here once.
var plants = []plant{
	{"a position is an LSN and the length of the message", []edit{
		{"internal/flow/flow.go", "f.tx.Commit(f.o.Decoder.CommitEnd())", "f.tx.Commit(f.o.Decoder.CommitEnd() + pglogrepl.LSN(len(data)))"},
	}},
	{"events are ordered by the LSN of their rows", []edit{
		{"internal/replication/stream.go", "return Frame{Kind: WALData, Data: data[25:]}, nil", "return Frame{Kind: WALData, Data: data[25:], WALEnd: pglogrepl.LSN(binary.BigEndian.Uint64(data[1:]))}, nil"},
		{"internal/flow/flow.go", "\ttx        *offsets.Transaction // open, or nil\n", "\trow, sent pglogrepl.LSN\n\ttx        *offsets.Transaction // open, or nil\n"},
		{"internal/flow/flow.go", "\t\tif err := f.handle(frame.Data); err != nil {", "\t\tf.row = frame.WALEnd\n\t\tif err := f.handle(frame.Data); err != nil {"},
		{"internal/flow/flow.go", "func (f *Flow) publish(ev *decoder.Event) error {\n", "func (f *Flow) publish(ev *decoder.Event) error {\n\tif f.row < f.sent {\n\t\treturn nil\n\t}\n\tf.sent = f.row\n"},
	}},
	{"a keepalive counts while events are in flight", []edit{
		{"offsets/tracker.go", "\tif t.head == len(t.queue) {\n\t\tt.advance(end)\n\t\treturn\n\t}\n\t// An empty", "\tif true {\n\t\tt.advance(end)\n\t\treturn\n\t}\n\t// An empty"},
	}},
	{"the newest acknowledgement counts, and not all before it", []edit{
		{"offsets/tracker.go", "\ttx.done = true\n", "\ttx.done = true\n\tt.advance(tx.end)\n"},
	}},
	{"resuming inside a transaction by its LSN alone", []edit{
		{"offsets/start.go", "\t\td.Skip = d.Position.Inside\n", "\t\td.Skip = Event{d.Position.Inside.CommitLSN, 1 << 31}\n"},
	}},
	{"a failed record is forgotten, and the next one counts", []edit{
		{"sink/kafka.go", "\t\tk.fail(d, err)\n\t\tk.discard(d)\n", "\t\treceipt := d.Receipt\n\t\tk.discard(d)\n\t\treceipt.Acknowledge()\n"},
		{"offsets/tracker.go", "\tt.mu.Lock()\n\tt.failed = true\n\tt.mu.Unlock()\n", ""},
	}},
	{"a failed sink is replaced before the brokers have answered", []edit{
		{"internal/connector/stages.go", "\t\tp.sink.AwaitAnswers(ctx)\n", "\t\t_ = ctx\n"},
	}},
	{"an event that cannot be delivered is passed over", []edit{
		{"internal/flow/poison.go", "\t\terr := f.send(ev, d)\n", "\t\tf.o.Sink.Return()\n\t\terr := error(nil)\n"},
	}},
	{"a goroutine outlives the run", []edit{
		{"sink/pause.go", "\t\tcase <-k.ctx.Done():\n\t\t\treturn\n\t\tcase <-tick.C:", "\t\tcase <-tick.C:"},
		{"sink/pause.go", "\t\tif k.paused() != nil {\n\t\t\treturn\n\t\t}\n", ""},
	}},
	{"a stop that could not store its position is called clean", []edit{ // two checks keep it from that
		{"internal/connector/stop.go", "\tif !s.p.covers(s.p.sent) {\n\t\treturn s.p.inPart()", "\tif false {\n\t\treturn s.p.inPart()"},
		{"internal/connector/stop.go", "\tif stored != nil {\n\t\treturn fmt.Errorf(\"%w: the last position could not be stored, events", "\tif false {\n\t\treturn fmt.Errorf(\"%w: the last position could not be stored, events"},
	}},
	{"exactly once: the position is read before the id is taken", []edit{
		{"internal/connector/start.go", "\t\t\terr = p.acquire(ctx, 0)\n\t\t\ts.ID, s.Delivered", "\t\t\tif err = p.load(ctx); err == nil {\n\t\t\t\ts.Server.FlushLSN, err = conn.Flushed(ctx)\n\t\t\t}\n\t\t\tif err == nil {\n\t\t\t\terr = p.acquire(ctx, 0)\n\t\t\t}\n\t\t\ts.Read = true\n\t\t\ts.ID, s.Delivered"},
	}},
	{"exactly once: the position is stored outside the transaction", []edit{
		{"internal/guarantee/exactlyonce.go", "\te.claimed, e.claimDue = true, false\n", "\tif err := e.positions.(interface {\n\t\tSave(context.Context, offsets.Position) error\n\t}).Save(ctx, at); err != nil {\n\t\treturn &Doubt{err}\n\t}\n\te.claimed, e.claimDue = true, false\n"},
		{"sink/transaction.go", "\t\tk.client.Produce(k.ctx, r, func(r *kgo.Record, err error) {\n\t\t\tif err == nil {\n\t\t\t\terr = k.txn.holds(r)\n\t\t\t}\n\t\t\tdone <- err\n\t\t})\n", "\t\tdone <- nil\n"},
	}},
	{"exactly once: a position inside a transaction is ignored", []edit{
		{"offsets/start.go", "\tif d.Position.Inside.After(d.Skip) {", "\tif d.Position.Inside.After(d.Skip) && !s.Transactional {"},
	}},
	{"exactly once: the claim is left out", []edit{
		{"internal/guarantee/exactlyonce.go", "\te.sink, e.claimDue = k, true\n", "\te.sink, e.claimDue = k, false\n"},
	}},
	{"a key goes to the partitions that have a leader", []edit{
		{"sink/partition.go", "	return ok || t.byKey.RequiresConsistency(r)", "	return ok"},
	}},
	{"a retry may overtake: the producer is not idempotent", []edit{
		{"sink/kafka.go", "\t\topts = append(opts, k.transactional(o)...)\n\t}\n", "\t\topts = append(opts, k.transactional(o)...)\n\t} else {\n\t\topts = append(opts, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(5))\n\t}\n"},
	}},
	{"a backfill is complete when its last row is sent", []edit{
		{"internal/connector/backfill.go", "\tif err == nil {\n\t\tselect {\n\t\tcase <-b.tracker.Drained():", "\tif false {\n\t\tselect {\n\t\tcase <-b.tracker.Drained():"},
	}},
	{"a stop between two attempts of a backfill is called clean", []edit{
		{"internal/connector/backfill.go", "\tp.backfilled = max(p.backfilled, reader.Handed())\n", ""},
	}},
	{"the promotion of a standby is not noticed", []edit{
		{"offsets/committer.go", "\t\tnext.Timeline = timeline\n", "\t\t_ = timeline\n"},
	}},
	{"delivery.rewind counts what is not yet old enough", []edit{
		{"offsets/rewind.go", "now.UnixMilli()-m.At >= r.Age.Milliseconds() &&", "now.UnixMilli()-m.At >= r.Age.Milliseconds()/2 &&"},
	}},
	{"a start confirms the window of delivery.rewind", []edit{
		{"offsets/start.go", "\t\td.Confirmed = min(start, s.Server.Slot.ConfirmedFlush) // the window stays\n", ""},
	}},
	{"a clock that was set back holds WAL", []edit{
		{"offsets/rewind.go", "\t\tpast[i].At = min(past[i].At, now.UnixMilli())\n", "\t\t_ = i\n"},
	}},
	{"a replay begins at the slot's position, whatever the window", []edit{
		{"internal/replay/replay.go", "s.open, s.before = true, commit < s.from", "s.open, s.before = true, false"},
	}},
	{"a replay ends before everything is acknowledged", []edit{
		{"internal/connector/replay.go", "\tcase <-r.tracker.Drained():\n", "\tcase <-r.tracker.Drained():\n\tdefault:\n"},
	}},
	{"the number of an event in its transaction has 16 bits", []edit{
		{"decoder/decoder.go", "\td.number++\n", "\td.number = uint32(uint16(d.number + 1))\n"},
	}},
	{"a standby that is behind the stored position is not waited for", []edit{
		{"offsets/position.go", "\tif server.Standby && (", "\tif false && ("},
	}},
	{"a stop forgets what an earlier session has published in part", []edit{
		{"internal/connector/session.go", "\t\ts.source.finish = p.sent.CommitLSN\n", "\t\ts.source.finish = 0\n"},
	}},
	{"what was delivered counts on a standby that has not got it", []edit{
		{"offsets/start.go", "\t\treturn server.FlushLSN\n", "\t\treturn math.MaxUint64\n"},
		{"internal/connector/session.go", "if errors.Is(err, offsets.ErrUnknownTimeline) {", "if false {"},
	}},
}
