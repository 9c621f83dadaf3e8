package replication

import (
	"context"
	"errors"
	"fmt"
)

// ReplaceSlot lets the slot of the configuration be replaced by that of the snapshot
// that is made next. Until Snapshot.MakeSlot it stays, so that nobody takes a slot that
// is gone for one that never was.
func (c *Conn) ReplaceSlot() { c.replaces = true }

// dropReplaced drops the slot that is replaced, if there is one.
func (c *Conn) dropReplaced(ctx context.Context) error {
	if !c.replaces {
		return nil
	}
	slot, err := c.slot(ctx)
	if slot == nil || err != nil {
		return err
	}
	if slot.Active {
		return SlotInUse(errors.New("a connector has begun to stream from it meanwhile"))
	}
	_, err = c.rows(ctx, "SELECT pg_drop_replication_slot("+quote(c.o.Slot)+")")
	if sqlState(err) == objectInUse {
		return SlotInUse(err)
	}
	if err != nil {
		return fmt.Errorf("drop replication slot %q, which is replaced: %w", c.o.Slot, err)
	}
	c.o.Log.Info().Str("slot", c.o.Slot).Msg("replication slot dropped; another replaces it")
	return nil
}
