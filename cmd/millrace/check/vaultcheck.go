package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// maxPatches bounds how many damaged segments are looked past: each costs one
// more reading of the ledger.
const maxPatches = 100

// vaultDamageJSON is an object of the vault itself, rather than of a point, that
// is wrong.
type vaultDamageJSON struct {
	Type   string `json:"type"`
	Object string `json:"object"`
	Cause  string `json:"cause"`
}

// verifyVault checks what all points rest on, as the vault has it and not as this
// machine has copies of it: every segment and checkpoint of the ledger, and every
// key as far as that goes without its secret. It prints and returns what is wrong.
func (a verb) verifyVault(ctx context.Context, v *session.Vault) ([]error, error) {
	wrong := verifyLedger(ctx, v, a.Now)
	for _, err := range vault.ReadKeys(ctx, v.Store, v.Config) {
		if err != nil {
			wrong = append(wrong, err)
		}
	}
	var bad []error
	told := map[string]bool{}
	for _, err := range wrong {
		if !isDamage(err) {
			return nil, err
		}
		object := fault.ObjectOf(err)
		if object != "" && told[object] {
			continue
		}
		told[object] = true
		bad = append(bad, err)
		if a.Settings.JSON {
			a.PrintJSON(vaultDamageJSON{"damage", object, err.Error()})
		} else {
			fmt.Fprintf(a.Stdout, "vault: DAMAGED: %s\n", session.Plain(err.Error()))
		}
	}
	return bad, nil
}

func isDamage(err error) bool {
	return errors.Is(err, vault.ErrDamaged) || errors.Is(err, ledger.ErrForked) || errors.Is(err, ledger.ErrRollback) || errors.Is(err, vault.ErrNewer)
}

// verifyLedger reads the ledger from the vault alone. Segments are proven from the
// newest to the oldest, so the first damaged one hides those before it. This
// machine's copy stands in for it then, itself proven or refused like any
// segment, and the ledger is read again.
func verifyLedger(ctx context.Context, v *session.Vault, now func() time.Time) (wrong []error) {
	st := patched{v.Store, map[string][]byte{}}
	for {
		found := readLedger(ctx, &vault.Vault{ID: v.ID, Config: v.Config, Store: st, Keys: v.Keys}, now)
		wrong = append(wrong, found...)
		more := false
		for _, err := range found {
			object := fault.ObjectOf(err)
			if _, tried := st.copies[object]; tried || !strings.HasPrefix(object, "ledger/") || len(st.copies) == maxPatches {
				continue
			}
			if b, err := os.ReadFile(filepath.Join(v.Cache("ledger"), path.Base(object))); err == nil {
				st.copies[object], more = b, true
			}
		}
		if !more {
			return wrong
		}
	}
}

// readLedger returns all that one reading of the ledger finds wrong.
func readLedger(ctx context.Context, v *vault.Vault, now func() time.Time) []error {
	l, err := ledger.Open(ctx, v, ledger.Options{Now: now})
	if err != nil {
		return []error{err}
	}
	wrong := l.Damaged()
	err = l.Verify(ctx)
	var joined interface{ Unwrap() []error } // Verify joins what it finds
	if errors.As(err, &joined) {
		return append(wrong, joined.Unwrap()...)
	}
	if err != nil {
		wrong = append(wrong, err)
	}
	return wrong
}

// patched is a store with copies in the place of some objects.
type patched struct {
	store.Store
	copies map[string][]byte
}

func (p patched) Get(ctx context.Context, name string, off int64, buf []byte) (int, error) {
	b, ok := p.copies[name]
	if !ok {
		return p.Store.Get(ctx, name, off, buf)
	}
	n := copy(buf, b[min(off, int64(len(b))):])
	if n < len(buf) {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

func (p patched) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		for e, err := range p.Store.List(ctx, prefix) {
			if b, ok := p.copies[e.Name]; ok {
				e.Size = int64(len(b))
			}
			if !yield(e, err) {
				return
			}
		}
	}
}
