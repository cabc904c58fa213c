// Package whole reads objects of a vault once, from end to end, and says what they are.
//
// A [Reader] reads one object at a time: [Reader.Sum] gives its SHA-256 and length and
// keeps its beginning and its end, so that what is there in the clear ([Reader.Own]) and
// the footer of a pack ([Reader.Footer]) can be looked at without reading it again. Every
// error that says something about the object satisfies errors.Is(err, vault.ErrDamaged)
// or vault.ErrNewer; all others are of reading it.
//
// A Reader is for one goroutine. It holds 1 MiB and a little.
package whole

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// piece is how much of an object is read at once.
const piece = 1 << 20

// headProbe is the clear part of a pack, which is the longer; tailProbe is what the
// footers of nearly all packs fit into, see vault.ReadPackFooter.
const (
	headProbe = 92
	tailProbe = 128 << 10
)

// Reader reads objects, one at a time.
type Reader struct {
	store   store.Store
	vault   id.Vault
	opened  *vault.Vault // nil: without the password
	advance func(int64)
	buf     []byte
	head    [headProbe]byte
	tail    []byte // the last bytes that were read
	kept    int64  // where in the object tail begins
}

// New makes a reader of objects of a vault, which opened is, or nil without the password.
// advance is told of each piece how many bytes it had.
func New(st store.Store, v id.Vault, opened *vault.Vault, advance func(int64)) *Reader {
	return &Reader{store: st, vault: v, opened: opened, advance: advance, buf: make([]byte, piece), tail: make([]byte, 0, 2*tailProbe)}
}

// Sum reads an object whole. size is what was read, also with an error that is about the object.
func (r *Reader) Sum(ctx context.Context, e store.Entry) (sum events.Hash, size int64, err error) {
	h := sha256.New()
	r.tail, r.kept = r.tail[:0], 0
	for {
		n, err := r.store.Get(ctx, e.Name, size, r.buf)
		b := r.buf[:n]
		h.Write(b)
		if size == 0 {
			clear(r.head[copy(r.head[:], b):])
		}
		size += int64(n)
		r.tail = append(r.tail, b[max(0, len(b)-tailProbe):]...)
		if over := len(r.tail) - tailProbe; over > 0 {
			r.tail = r.tail[:copy(r.tail, r.tail[over:])]
		}
		r.advance(int64(n))
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			r.kept = size - int64(len(r.tail))
			return events.Hash(h.Sum(nil)), size, nil
		case err != nil:
			return sum, size, fmt.Errorf("read %s: %w", e.Name, err)
		case size > e.Size+piece:
			return sum, size, fmt.Errorf("read %s: it goes on behind its %d bytes: %w", e.Name, e.Size, vault.ErrDamaged)
		}
	}
}

// Own checks that the pack or table that was just read, which nobody names, is what its
// own name and clear part say: of this vault and of the job in whose folder it lies.
func (r *Reader) Own(ctx context.Context, e store.Entry, sum events.Hash) error {
	j, ok := Job(e.Name)
	if !ok || !strings.HasSuffix(e.Name, "/"+sum.String()) {
		return fmt.Errorf("its name is not its SHA-256: %w", vault.ErrDamaged)
	}
	if strings.HasPrefix(e.Name, "tables/") {
		var keys *vault.Keys
		if r.opened != nil {
			keys = r.opened.Keys
		}
		return table.Check(ctx, ends{r.store, e, r}, r.vault, keys, e)
	}
	if !bytes.HasPrefix(r.head[:], []byte("MRPACK")) || !bytes.Equal(r.head[8:40], r.vault[:]) || !bytes.Equal(r.head[56:72], j[:]) {
		return fmt.Errorf("it is no pack of this vault and job: %w", vault.ErrDamaged)
	}
	return r.Footer(ctx, e)
}

// Footer opens the footer of the pack that was just read, from what was kept of it. Of
// other objects, and without the password, it says nothing.
func (r *Reader) Footer(ctx context.Context, e store.Entry) error {
	if r.opened == nil || !strings.HasPrefix(e.Name, "packs/") {
		return nil
	}
	j, ok := Job(e.Name)
	var name id.Object
	if !ok || name.UnmarshalText([]byte(e.Name[strings.LastIndexByte(e.Name, '/')+1:])) != nil {
		return fmt.Errorf("not the name of a pack: %w", vault.ErrDamaged)
	}
	_, err := vault.ReadPackFooter(ctx, ends{r.store, e, r}, r.opened.Keys, j, name)
	return err
}

// Job is the job in whose folder an object lies: packs/<job>/<sum> and the like.
func Job(name string) (j id.Job, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || parts[0] == "domains" {
		return j, false
	}
	return j, j.UnmarshalText([]byte(parts[1])) == nil
}

// ends is a store in which the beginning and the end of one object are at hand.
type ends struct {
	store.Store
	e store.Entry
	r *Reader
}

func (s ends) Stat(context.Context, string) (store.Entry, error) { return s.e, nil }

func (s ends) Get(ctx context.Context, name string, off int64, buf []byte) (int, error) {
	to := off + int64(len(buf))
	switch {
	case to <= headProbe:
		return copy(buf, s.r.head[off:to]), nil
	case off >= s.r.kept && to <= s.r.kept+int64(len(s.r.tail)):
		return copy(buf, s.r.tail[off-s.r.kept:]), nil
	}
	return s.Store.Get(ctx, name, off, buf)
}
