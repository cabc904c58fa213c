// Package apart keeps the keys of dedup domains that can be destroyed: each domain has a
// folder of objects, domains/<domain>/<generation>, and what was sealed in the domain is
// readable as long as they are there.
//
// [Make] gives a domain its first object, with all its secrets; [Add] one more after the
// vault's keys were rotated, with a fresh data key and nothing else; [Delete] ends the
// domain. A vault's keys read them through [Source] when they are first needed.
//
// # Guarantees
//
// No secret is ever copied: not into another object, not into the objects of passwords,
// not at a rotation. So Delete, when it returns nil, has deleted the last of them in the
// store, and nobody who writes objects at the same time can bring one back: what Add
// puts there opens nothing that was sealed before. What copies of the store hold that
// were made earlier, it cannot reach.
//
// Which guest has which domain, and that one was shredded, the ledger says: package
// domain. The byte-exact form is in docs/format/keys.md.
package apart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault/seal"
	"github.com/millrace-backup/millrace/vault/store"
)

// Prefix is what the names of these objects begin with.
const Prefix = "domains/"

// maxObjects bounds the objects of one domain: one for each generation of keys.
const maxObjects = seal.MaxGeneration + 1

// Folder is what the names of a domain's objects begin with.
func Folder(d id.Domain) string { return Prefix + d.String() + "/" }

// Name is the object with the keys that a domain was given in a generation of the vault's.
func Name(d id.Domain, generation int) string { return fmt.Sprintf("%s%04d", Folder(d), generation) }

// DomainOf is the domain that an object of this name has keys of.
func DomainOf(name string) (d id.Domain, ok bool) {
	rest, ok := strings.CutPrefix(name, Prefix)
	folder, number, nested := strings.Cut(rest, "/")
	return d, ok && nested && len(number) == 4 && d.UnmarshalText([]byte(folder)) == nil
}

// Source fetches the objects of domains from st.
func Source(ctx context.Context, st store.Store) seal.Source {
	ctx = context.WithoutCancel(ctx) // keys live as long as the vault is open
	return func(d id.Domain) (out []seal.ApartObject, err error) {
		for e, err := range st.List(ctx, Folder(d)) {
			if err != nil {
				return nil, fmt.Errorf("list keys of domain %s: %w", d, err)
			}
			if len(out) == maxObjects {
				return nil, fmt.Errorf("%s: more than %d objects: %w", Folder(d), maxObjects, seal.ErrDamaged)
			}
			text, err := store.ReadAll(ctx, st, e.Name, seal.MaxApart)
			switch {
			case errors.Is(err, store.ErrNotFound):
				continue // shredded at this moment
			case errors.Is(err, store.ErrLength):
				return nil, fmt.Errorf("%s: longer than %d bytes: %w", e.Name, seal.MaxApart, seal.ErrDamaged)
			case err != nil:
				return nil, fmt.Errorf("read keys of domain %s: %w", d, err)
			}
			out = append(out, seal.ApartObject{Name: e.Name, Sealed: text})
		}
		if len(out) == 0 {
			return nil, fmt.Errorf("%s: %w", Folder(d), seal.ErrNoDomain)
		}
		return out, nil
	}
}

// Make stores the keys of a new domain and returns the object's name. A crash leaves
// an object that no segment names, of a domain in which nothing is sealed.
func Make(ctx context.Context, st store.Store, k *seal.Keys, d id.Domain) (string, error) {
	name := Name(d, k.Generation())
	text, err := k.NewApart(d, name)
	if err != nil {
		return "", err
	}
	return name, put(ctx, st, k, d, name, text)
}

// Add stores a fresh data key of a domain whose newest is older than the vault's keys, and
// returns the object's name, or "" if it has one. Of two at a time the first one's counts.
func Add(ctx context.Context, st store.Store, k *seal.Keys, d id.Domain) (string, error) {
	k.Refetch(d)
	newest, err := k.Newest(d)
	if err != nil {
		return "", fmt.Errorf("keys of domain %s: %w", d, err)
	}
	if newest >= k.Generation() {
		return "", nil
	}
	name := Name(d, k.Generation())
	text, err := k.MoreApart(d, name)
	if err != nil {
		return "", err
	}
	if err = put(ctx, st, k, d, name, text); errors.Is(err, store.ErrExists) {
		err = nil
	}
	if now, unread := k.Newest(d); err == nil && now < k.Generation() { // there, and not readable
		return "", fmt.Errorf("%s: %w", name, errors.Join(unread, seal.ErrDamaged))
	}
	return name, err
}

func put(ctx context.Context, st store.Store, k *seal.Keys, d id.Domain, name string, text []byte) error {
	defer k.Refetch(d)
	if err := st.PutNew(ctx, name, int64(len(text)), bytes.NewReader(text)); err != nil {
		return fmt.Errorf("store keys of domain %s: %w", d, err)
	}
	return nil
}

// Delete deletes all that opens what was sealed in a domain and says how many objects
// that was. Nil means that none is left; after a crash or an error it is called again.
func Delete(ctx context.Context, st store.Store, k *seal.Keys, d id.Domain) (n int, err error) {
	defer k.Refetch(d)
	for {
		var names []string
		for e, err := range st.List(ctx, Folder(d)) {
			if err != nil {
				return n, fmt.Errorf("list keys of domain %s: %w", d, err)
			}
			names = append(names, e.Name)
		}
		if len(names) == 0 {
			// Who died here before may have removed them without making that durable: asking
			// for one that is gone does (store contract).
			if err := st.Delete(ctx, Name(d, 0)); err != nil && !errors.Is(err, store.ErrNotFound) {
				return n, fmt.Errorf("destroy keys of domain %s: %w", d, err)
			}
			return n, nil
		}
		for _, name := range names {
			if err := st.Delete(ctx, name); err != nil && !errors.Is(err, store.ErrNotFound) {
				return n, fmt.Errorf("destroy keys of domain %s: %w", d, err)
			}
			n++
		}
	}
}
