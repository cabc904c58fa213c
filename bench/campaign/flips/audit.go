package flips

import (
	"context"
	"fmt"

	"github.com/millrace-backup/millrace/audit/proof"
	"github.com/millrace-backup/millrace/bench/campaign/rig"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// audit proves the damaged vault with and without the password, in turn as the machine
// that wrote it and as a stranger, and wants the object named each time.
func (b *bench) audit(ctx context.Context, m mutation, owners ...bool) (wrong []error) {
	for n, password := range []bool{true, false} {
		for _, owner := range owners {
			owner = owner != (n == 1) // with and without the password not as the same
			who := fmt.Sprintf("audit verify, password %v, remembered %v", password, owner)
			r, err := b.prove(ctx, password, owner)
			if err != nil {
				if m.kind != vault.ConfigName { // which is read before anything else
					wrong = append(wrong, fmt.Errorf("%s: %w", who, err))
				}
				continue
			}
			named := m.kind == vault.ConfigName && len(r.Findings) > 0 // another vault's: nothing else is right then
			for _, f := range r.Findings {
				named = named || f.Object == m.object || m.second != "" && f.Object == m.second
			}
			if !named && !b.silent(m, owner) {
				wrong = append(wrong, fmt.Errorf("%s: not detected; found: %v", who, r.Err()))
			}
		}
	}
	return wrong
}

// silent reports that nothing has to be found: what is disposable has gone, or the newest
// checkpoint, before somebody who remembers nothing.
func (b *bench) silent(m mutation, owner bool) bool {
	switch {
	case m.disposable():
		return m.what == "removal"
	case m.kind == "checkpoints":
		return m.what == "removal" && !owner && m.object == b.newest()
	}
	return false
}

// newest is the name of the last checkpoint.
func (b *base) newest() (name string) {
	for _, n := range b.byKind["checkpoints"] {
		name = max(name, n)
	}
	return name
}

func (b *bench) prove(ctx context.Context, password, owner bool) (*proof.Result, error) {
	st, err := dir.Open(b.place.Vault)
	if err != nil {
		return nil, err
	}
	o := proof.Options{Store: st, Workers: 2, Scratch: b.place.Dir}
	if o.Config, err = vault.ReadConfig(ctx, st); err != nil {
		return nil, err
	}
	if password {
		// A key that is damaged, or gone, is found without being opened.
		for _, secret := range []string{rig.Password, b.place.Recovery} {
			if v, err := vault.Open(ctx, st, []byte(secret)); err == nil {
				o.Vault = v
				break
			}
		}
	}
	if owner {
		c, err := ledger.ParseCheckpoint(o.Config, b.objects[b.newest()])
		if err != nil {
			return nil, err
		}
		o.Seen = append(o.Seen, proof.Seen{By: "the owner", Checkpoint: c})
	}
	return proof.Verify(ctx, o)
}
