package layers

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"

	"github.com/millrace-backup/millrace/catalog/spill"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/table"
)

// uses numbers chunks in the order of their first use, without a map of them.
// Every use of a chunk has an ordinal. Sorted by chunk, the first of each group is
// where its chunk is used first; a chunk's number is how many firsts lie before
// its own, which a bit per use and a few sums tell.
type uses struct {
	count  uint64
	byID   *spill.Sorter // chunk 32, use u64, pack u32; big-endian
	again  *spill.Sorter // use u64, the chunk's first use u64: those that are not first
	first  ranked
	packs  []bool // by their number: some first use lies in it
	record []byte
}

const (
	idRecord    = 32 + 8 + 4
	againRecord = 8 + 8
	idBudget    = 4 << 20
	againBudget = 1 << 20
)

func newUses(scratch *spill.Log) *uses {
	return &uses{byID: spill.NewSorter(scratch, idRecord, idBudget), again: spill.NewSorter(scratch, againRecord, againBudget)}
}

// add enters the next use.
func (u *uses) add(c id.Chunk, pack uint32) error {
	if u.count == 1<<32-1 {
		return fmt.Errorf("use %d of a chunk: %w", u.count, table.ErrTooLarge)
	}
	u.record = append(u.record[:0], c[:]...)
	u.record = binary.BigEndian.AppendUint64(u.record, u.count)
	u.record = binary.BigEndian.AppendUint32(u.record, pack)
	u.count++
	return u.byID.Add(u.record)
}

// settle finds the first uses. There are packs packs.
func (u *uses) settle(packs int) error {
	u.packs = make([]bool, packs)
	u.first = newRanked(u.count)
	var last id.Chunk
	var first, seen uint64
	for r, err := range u.byID.Sorted() {
		if err != nil {
			return err
		}
		c, use := id.Chunk(r[:32]), binary.BigEndian.Uint64(r[32:])
		if seen++; seen == 1 || c != last {
			last, first = c, use
			u.first.set(use)
			u.packs[binary.BigEndian.Uint32(r[40:])] = true
			continue
		}
		u.record = binary.BigEndian.AppendUint64(u.record[:0], use)
		u.record = binary.BigEndian.AppendUint64(u.record, first)
		if err := u.again.Add(u.record); err != nil {
			return err
		}
	}
	u.byID = nil // its memory is not needed any more
	u.first.sum()
	return nil
}

// numbers gives the chunk number of one use after the other, from the first on.
// stop frees what it holds.
func (u *uses) numbers() (next func() (uint32, error), stop func()) {
	pull, stop := iter.Pull2(u.again.Sorted())
	use := uint64(0)
	return func() (uint32, error) {
		n := use
		if use++; u.first.has(n) {
			return u.first.rank(n), nil
		}
		r, err, more := pull()
		switch {
		case err != nil:
			return 0, err
		case !more || binary.BigEndian.Uint64(r) != n:
			return 0, spill.ErrDamaged
		}
		return u.first.rank(binary.BigEndian.Uint64(r[8:])), nil
	}, stop
}

// ranked is a set of numbers below a bound that knows how many of them lie before
// any of them.
type ranked struct {
	words []uint64
	sums  []uint32 // of the bits before every eighth word
}

func newRanked(bound uint64) ranked { return ranked{words: make([]uint64, bound/64+1)} }

func (r *ranked) set(n uint64)      { r.words[n/64] |= 1 << (n % 64) }
func (r *ranked) has(n uint64) bool { return r.words[n/64]&(1<<(n%64)) != 0 }

// sum ends the setting.
func (r *ranked) sum() {
	total := uint32(0)
	for i, w := range r.words {
		if i%8 == 0 {
			r.sums = append(r.sums, total)
		}
		total += uint32(bits.OnesCount64(w))
	}
}

// rank is how many members lie before n.
func (r *ranked) rank(n uint64) uint32 {
	total := r.sums[n/512]
	for i := n / 512 * 8; i < n/64; i++ {
		total += uint32(bits.OnesCount64(r.words[i]))
	}
	return total + uint32(bits.OnesCount64(r.words[n/64]&(1<<(n%64)-1)))
}
