// Package store is what a vault asks of the place that holds its objects.
//
// A [Store] keeps named, immutable objects: a folder (package store/dir), later
// a bucket or a server. Everything a vault keeps, packs, tables, ledger segments,
// keys, is an object; nothing is ever overwritten, appended to or renamed over
// something else. That is all the vault needs to be safe against crashes and
// against other writers, so it is all that a new kind of store has to offer.
// Package store/storetest holds every implementation to the promises below.
//
// Call [ReadAll] for small whole objects, [Stat] for a size, [Begin] to write an
// object whose name is known only when its last byte is (packs are named by
// their own hash).
//
// Words. A *name* is a path of elements joined by '/', each made of [a-z0-9._-];
// see [CheckName]. A *torn put* is one whose writer failed or died half-way: it
// is never visible under its name, to anyone, at any time.
//
// Durability: when PutNew or Commit returns nil, the object survives a power
// cut. Order: if one put returned before another began, no crash keeps the second
// without the first. Concurrency: every method may be called in parallel, from
// many goroutines, processes and machines at once.
//
// The package is not a cache, does not retry and knows nothing of what the
// objects mean. It imports the standard library only.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
)

// The errors a caller decides by. They come wrapped with operation, object and
// cause; test them with errors.Is.
var (
	// ErrNotFound: no object has this name. errors.Is(err, fs.ErrNotExist) holds too.
	ErrNotFound = fmt.Errorf("no such object: %w", fs.ErrNotExist)
	// ErrExists: an object already has this name; it was not touched.
	// errors.Is(err, fs.ErrExist) holds too.
	ErrExists = fmt.Errorf("object exists: %w", fs.ErrExist)
	// ErrForeign: something that is no object has the name of one, such as a pipe or a
	// link to nowhere. errors.Is(err, ErrNotFound) holds too.
	ErrForeign = fmt.Errorf("what is there is not of the vault: %w", ErrNotFound)
	// ErrFull: no room or no quota is left. Nothing of the object remains.
	ErrFull = errors.New("store is full")
	// ErrReadOnly: the store may not be written to, by permission or by mount.
	ErrReadOnly = errors.New("store is read-only")
	// ErrNoStore: the place itself is missing (folder gone, disk not mounted).
	// A store never makes its own root while writing: writing on would fill the
	// disk under an absent mount.
	ErrNoStore = errors.New("store is missing")
	// ErrOther: the place holds a store, but not the one that was there.
	ErrOther = errors.New("another vault is where this one was")
	// ErrName: this is not a name; see [CheckName].
	ErrName = errors.New("not an object name")
	// ErrLength: the body had more or fewer bytes than promised, or an object
	// more than the caller is ready to read.
	ErrLength = errors.New("wrong length")
)

// Entry is one object in a listing. Size is in bytes.
type Entry struct {
	Name string
	Size int64
}

// Store keeps named, immutable objects. All methods may be called in parallel.
// A cancelled context ends a call early with ctx's error in the chain; a put cut
// short that way is a torn put.
type Store interface {
	// PutNew stores exactly size bytes of body under name, all or nothing, and
	// returns when they are durable. It never overwrites: when the name is taken
	// it returns ErrExists, and what is there is whole and durable. Of many
	// callers racing for one name exactly one wins. A body that fails, or has
	// not exactly size bytes (ErrLength), leaves nothing behind. After any other
	// error the object is either absent or whole. No name may be the folder of
	// another ("a" and "a/b"): ErrName.
	PutNew(ctx context.Context, name string, size int64, body io.Reader) error

	// Get fills buf with the object's bytes from offset off on and returns
	// len(buf). If the object ends before buf is full it returns the number of
	// bytes there were and an error in whose chain io.ErrUnexpectedEOF is. An
	// empty buf asks only whether the object is there. buf is not kept.
	Get(ctx context.Context, name string, off int64, buf []byte) (int, error)

	// List yields every object whose name begins with prefix, in byte order of
	// the names. The prefix is a plain string, it need not end at a '/'. Objects
	// put or deleted while the listing runs may be in it or not; unfinished puts
	// never are. An error ends the listing.
	List(ctx context.Context, prefix string) iter.Seq2[Entry, error]

	// Delete removes the object: ErrNotFound if there is none. After either
	// answer no power cut brings it back. A reader that has begun may get its
	// bytes or ErrNotFound, never other bytes.
	Delete(ctx context.Context, name string) error
}

// Upload is an object being written whose name is not known yet. It is for one
// goroutine. Write consumes p at once and does not keep it; after a failed Write
// only Abort makes sense.
type Upload interface {
	io.Writer
	// Commit makes what was written durable under name, with the promises of
	// PutNew. Whatever it returns, the Upload is over.
	Commit(ctx context.Context, name string) error
	// Abort drops everything written. After Commit, or twice, it does nothing.
	Abort()
}

// Streamer is a Store that takes objects in pieces without holding them in
// memory. ctx covers the writes; Commit has its own.
type Streamer interface {
	Begin(ctx context.Context) (Upload, error)
}

// Stater is a Store that can tell one object's size without a listing.
type Stater interface {
	Stat(ctx context.Context, name string) (Entry, error)
}

// Stray is something in the place of a store that is no object and never was one.
type Stray struct {
	Name string // as an object's would be, or the path where it cannot be one
	What string // in words: a symbolic link, a named pipe, a file, …
}

// Surveyor is a Store that can tell what else is where its objects are, in any order. Of a
// folder that can hold no object it tells that alone, not what is in it.
type Surveyor interface {
	Strays(ctx context.Context) iter.Seq2[Stray, error]
}

// Resumer is a Store that can begin a listing behind a name at less cost than by
// listing what comes before it.
type Resumer interface {
	ListAfter(ctx context.Context, prefix, after string) iter.Seq2[Entry, error]
}
