package check

import (
	"fmt"

	"outboxd/internal/replication"
)

// promises says what the set-up can promise, by what was found of it.
func promises(o Options, server replication.Facts, kafka *cluster) []Promise {
	return []Promise{exactlyOnce(o, kafka), failover(o, server), replayWindow(o)}
}

func exactlyOnce(o Options, kafka *cluster) Promise {
	p := Promise{Name: "exactly once", Known: kafka.apis != nil}
	switch {
	case !p.Known:
		p.Text, p.Change = "the brokers were not reached", "reach them and check again"
	case !kafka.transactions():
		p.Text, p.Change = "the brokers have no transactions; events can come twice after a fault", "brokers with AddPartitionsToTxn and EndTxn; or consumers that drop repeats by the position header"
	case o.ExactlyOnce:
		p.Holds, p.Text = true, "a read_committed consumer sees each event once"
	default:
		p.Text, p.Change = "delivery.guarantee is at_least_once; events can come twice after a fault", "delivery.guarantee: exactly_once, which these brokers can do"
	}
	return p
}

func failover(o Options, server replication.Facts) Promise {
	p := Promise{Name: "failover", Known: server.Reached}
	switch slot := server.Slot; {
	case !p.Known:
		p.Text, p.Change = "PostgreSQL or its slot could not be looked at", "reach it and check again"
	case server.Standby:
		p.Text, p.Change = "the slot is on a standby: it outlives that standby's promotion, and not its loss", "stream from the primary with a failover slot (PostgreSQL 17)"
	case server.Major < 17:
		p.Text = fmt.Sprintf("PostgreSQL %d does not copy logical slots to standbys: after a promotion the slot is gone, and a start refuses", server.Major)
		p.Change = "PostgreSQL 17 or newer; before, `outboxd recover` makes a new slot and publishes what was not delivered"
	case slot == nil && o.Source.Failover == "off", slot != nil && !slot.Failover:
		p.Text, p.Change = "the slot is no failover slot: it is lost when a standby is promoted", "postgres.failover: on"
	case !server.SynchronizedSlot:
		p.Text = "standbys with sync_replication_slots = on keep the slot, but one may lack what was delivered already: a start after its promotion then refuses the position"
		p.Change = "name the standbys' physical slots in synchronized_standby_slots on the primary, and set sync_replication_slots = on at the standbys"
	default:
		p.Holds = true
		p.Text = "a failover slot, and nothing is delivered that the standbys of synchronized_standby_slots lack; it needs sync_replication_slots = on at the standbys, which is not seen from here"
	}
	return p
}

func replayWindow(o Options) Promise {
	p := Promise{Name: "replay window", Known: true}
	if o.Rewind != "" {
		p.Holds, p.Text = true, "`outboxd replay` can go back "+o.Rewind+" (delivery.rewind), while the slot's WAL is kept"
		return p
	}
	p.Text, p.Change = "what is confirmed to PostgreSQL cannot be replayed from WAL", "delivery.store: file or kafka, and delivery.rewind"
	if o.ExactlyOnce {
		p.Change = "delivery.rewind"
	}
	return p
}
