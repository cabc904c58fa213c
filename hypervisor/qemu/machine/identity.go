package machine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/id"
)

// Identify gives the guest its name, and the id of its own or that of its path.
func (m *Monitor) Identify(ctx context.Context, g *hypervisor.Guest, v id.Vault) error {
	var name struct{ Name string }
	if err := m.Do(ctx, "query-name", nil, &name); err != nil {
		return err
	}
	if g.Name = name.Name; g.Name == "" {
		g.Name = filepath.Base(g.Source)
	}
	if !g.ID.IsZero() {
		return nil
	}
	var own struct{ UUID string }
	if err := m.Do(ctx, "query-uuid", nil, &own); err != nil {
		return err
	}
	if err := g.ID.UnmarshalText([]byte(own.UUID)); err != nil {
		return fmt.Errorf("its UUID %q: %w", own.UUID, err)
	}
	if g.ID.IsZero() { // QEMU was given none
		if v.IsZero() {
			return errors.New("it has no UUID (-uuid), and there is neither a guest id nor a vault to derive one from")
		}
		g.ID = id.NewGuest(v, "qemu:"+g.Source)
	}
	return nil
}
