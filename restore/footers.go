package restore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
)

// footers knows what packs say they hold. Of each pack it keeps one bit per chunk,
// which says that the chunk was met; the footers themselves, 500 times larger, it
// keeps for the packs used last. It is for one goroutine.
type footers struct {
	v     *vault.Vault
	met   map[packKey]*metPack
	open  map[packKey]openPack
	clock int64
}

type metPack struct {
	bits []uint64
	err  error // the footer cannot be read; same for every chunk
	size int64
	// loose are the chunks met in a pack without footer.
	loose map[place]bool
}

type openPack struct {
	vault.PackInfo
	used int64
}

const openPacks = 256 // footers of 30 to 60 KiB each

func newFooters(v *vault.Vault) *footers {
	return &footers{v: v, met: make(map[packKey]*metPack), open: make(map[packKey]openPack)}
}

// look finds a chunk's place in its pack's footer. first is true the first time
// this place is asked for; then the error says what is wrong with the place, if
// anything. packErr says what is wrong with the pack; stop, why to give up.
func (f *footers) look(ctx context.Context, p place) (first bool, chunkErr, packErr, stop error) {
	k := p.key()
	met := f.met[k]
	info, opened := f.open[k]
	if met == nil || !opened && met.err == nil {
		got, err := vault.ReadPackFooter(ctx, f.v.Store, f.v.Keys, p.job, p.pack)
		if err != nil && stops(ctx, err) {
			return false, nil, nil, fmt.Errorf("read pack: %w", err)
		}
		if err != nil {
			err = unreadable(k.name(), p.end(), err)
		}
		if met == nil {
			met = &metPack{bits: make([]uint64, (len(got.Entries)+63)/64)}
			f.met[k] = met
		}
		met.err, met.size = err, got.Size
		info = openPack{PackInfo: got}
		f.evict()
	}
	if met.err != nil {
		if met.loose == nil {
			met.loose = make(map[place]bool)
		}
		first = !met.loose[p]
		met.loose[p] = true
		return first, nil, met.err, nil
	}
	f.clock++
	info.used = f.clock
	f.open[k] = info
	n, err := find(info.PackInfo, p)
	if err != nil || n/64 >= len(met.bits) {
		return true, err, nil, nil
	}
	first = met.bits[n/64]&(1<<(n%64)) == 0
	met.bits[n/64] |= 1 << (n % 64)
	return first, nil, nil, nil
}

// evict makes room for one more footer.
func (f *footers) evict() {
	if len(f.open) < openPacks {
		return
	}
	var oldest packKey
	used := f.clock + 1
	for k, o := range f.open {
		if o.used < used {
			oldest, used = k, o.used
		}
	}
	delete(f.open, oldest)
}

// find returns the number of the footer's entry that a table's place agrees with.
func find(info vault.PackInfo, p place) (int, error) {
	n, ok := slices.BinarySearchFunc(info.Entries, p.at, func(e vault.PackEntry, at int64) int { return cmp.Compare(int64(e.Offset), at) })
	name := vault.PackName(p.job, p.pack)
	if !ok {
		return 0, damaged(name, "no chunk begins at %d, where a table has %s", p.at, p.chunk)
	}
	e := info.Entries[n]
	if e.Chunk != p.chunk || int64(e.Stored) != p.stored || int64(e.Raw) != p.raw {
		return 0, damaged(name, "at %d it has %s, %d bytes for %d; a table has %s, %d for %d",
			p.at, id.Short(e.Chunk), e.Stored, e.Raw, id.Short(p.chunk), p.stored, p.raw)
	}
	if info.Domain != p.domain {
		return 0, damaged(name, "it is of domain %s, a table says %s", info.Domain, p.domain)
	}
	return n, nil
}
