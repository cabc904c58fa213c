package arena

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"
)

// Pool says what a slot is for. The pools are apart, so that the
// reader can never take the room that seal needs to empty the pipeline.
type Pool uint8

// The pools.
const (
	NoSlot Pool = iota // the stage fills no slots
	Raw                // bytes as read, filled by reader
	Sealed             // bytes as stored, filled by seal
)

// Shape is the geometry of an arena. Sizes are in bytes.
type Shape struct {
	RawSlots, SealedSlots int
	RawSize, SealedSize   int
	RecentEntries         int // capacity of the job's table of durable chunks; see [Recent]
}

// SealedSize returns the size a sealed slot needs for a parcel of n bytes in
// which nothing compresses: frames and AEAD add at most 80 bytes to a chunk,
// and chunks are 16 KiB or longer but for those beside zero runs.
func SealedSize(n int) int { return n + n/32 + 64<<10 }

const (
	arenaMagic   = "MRARENA1"
	headerBytes  = 4096
	wordStride   = 64 // each slot word has a cache line of its own
	pageBytes    = 4096
	maxSlots     = 1 << 15
	maxArena     = 1 << 40
	usedAt       = 128 // in the header: how many entries of Recent are taken
	stateFree    = 0
	stateFilling = 1
	stateFull    = 2
)

// ErrArena: the shared memory is not an arena of this program, or is too small.
var ErrArena = errors.New("not an arena")

// Arena is the shared memory of a job. One 64-bit word per slot holds
// generation (32 bits), owner (24) and state (8: free, filling, full) and is
// changed only by compare-and-swap, so any process may be killed at any
// instruction and the words stay meaningful. All methods may be called in
// parallel, from all processes of the job.
type Arena struct {
	file  *os.File
	mem   []byte
	shape Shape
	unmap func() error
}

// Slot is a slot as its filler holds it.
type Slot struct {
	Number     uint32
	Generation uint32
}

func align(n int) int { return (n + pageBytes - 1) &^ (pageBytes - 1) }

func (s Shape) offsets() (words, raw, sealed, known, total int) {
	words = headerBytes
	raw = align(words + wordStride*(s.RawSlots+s.SealedSlots))
	sealed = raw + s.RawSlots*align(s.RawSize)
	known = sealed + s.SealedSlots*align(s.SealedSize)
	return words, raw, sealed, known, align(known + s.RecentEntries*knownEntry)
}

func (s Shape) check() error {
	for _, n := range []int{s.RawSlots, s.SealedSlots} {
		if n < 1 || n > maxSlots {
			return fmt.Errorf("%w: %d slots", ErrArena, n)
		}
	}
	for _, n := range []int{s.RawSize, s.SealedSize} {
		if n < pageBytes || n > 1<<30 {
			return fmt.Errorf("%w: slots of %d bytes", ErrArena, n)
		}
	}
	if s.RecentEntries < 0 || s.RecentEntries > 1<<32 || s.RecentEntries&(s.RecentEntries-1) != 0 {
		return fmt.Errorf("%w: %d entries for known chunks, not a power of two", ErrArena, s.RecentEntries)
	}
	if _, _, _, _, total := s.offsets(); total <= 0 || total > maxArena {
		return fmt.Errorf("%w: %d bytes in all", ErrArena, total)
	}
	return nil
}

// New makes an arena for a job. Its memory is anonymous: it goes with the
// last process that has it open, and counts only as far as it is touched.
func New(s Shape) (*Arena, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	_, _, _, _, total := s.offsets()
	f, err := newSharedMemory(total)
	if err != nil {
		return nil, fmt.Errorf("make an arena of %d bytes: %w", total, err)
	}
	a, err := mapArena(f, total)
	if err != nil {
		f.Close()
		return nil, err
	}
	a.shape = s
	copy(a.mem, arenaMagic)
	for i, n := range []int{s.RawSlots, s.SealedSlots, s.RawSize, s.SealedSize, s.RecentEntries} {
		binary.LittleEndian.PutUint64(a.mem[8+8*i:], uint64(n))
	}
	return a, nil
}

// Open maps the arena behind an inherited handle.
func Open(f *os.File) (*Arena, error) {
	head, err := mapArena(f, headerBytes)
	if err != nil {
		return nil, err
	}
	var n [5]int
	for i := range n {
		n[i] = int(binary.LittleEndian.Uint64(head.mem[8+8*i:]))
	}
	magic := string(head.mem[:8])
	if err := head.unmap(); err != nil {
		return nil, fmt.Errorf("unmap the arena's head: %w", err)
	}
	s := Shape{RawSlots: n[0], SealedSlots: n[1], RawSize: n[2], SealedSize: n[3], RecentEntries: n[4]}
	if magic != arenaMagic {
		return nil, fmt.Errorf("%w: wrong signature", ErrArena)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	_, _, _, _, total := s.offsets()
	a, err := mapArena(f, total)
	if err != nil {
		return nil, err
	}
	a.shape = s
	return a, nil
}

// File is the handle that workers inherit.
func (a *Arena) File() *os.File { return a.file }

// Shape returns the arena's geometry.
func (a *Arena) Shape() Shape { return a.shape }

// Close unmaps the memory and closes the handle.
func (a *Arena) Close() error { return errors.Join(a.unmap(), a.file.Close()) }

func (a *Arena) word(slot uint32) *atomic.Uint64 {
	at := headerBytes + wordStride*int(slot)
	return (*atomic.Uint64)(unsafe.Pointer(&a.mem[at]))
}

func pack(gen, owner uint32, state uint64) uint64 {
	return uint64(gen)<<32 | uint64(owner&0xffffff)<<8 | state
}

func unpack(w uint64) (gen, owner uint32, state uint64) {
	return uint32(w >> 32), uint32(w>>8) & 0xffffff, w & 0xff
}

func (a *Arena) slots(c Pool) (from, to uint32) {
	switch c {
	case Raw:
		return 0, uint32(a.shape.RawSlots)
	case Sealed:
		return uint32(a.shape.RawSlots), uint32(a.shape.RawSlots + a.shape.SealedSlots)
	}
	return 0, 0
}

// TryAcquire takes a free slot for owner, to be filled.
func (a *Arena) TryAcquire(c Pool, owner uint32) (Slot, bool) {
	from, to := a.slots(c)
	for n := from; n < to; n++ {
		w := a.word(n).Load()
		gen, _, state := unpack(w)
		next := max(gen+1, 1) // 0 after 2^32 tenants would claim nothing
		if state == stateFree && a.word(n).CompareAndSwap(w, pack(next, owner, stateFilling)) {
			return Slot{n, next}, true
		}
	}
	return Slot{}, false
}

// Acquire waits for a free slot. It polls with a growing pause (0.1 to 10 ms):
// a freed slot is rarely late by more than the time a parcel takes anyway, and
// a job that stands still costs nearly nothing.
func (a *Arena) Acquire(ctx context.Context, c Pool, owner uint32) (Slot, error) {
	pause := 100 * time.Microsecond
	for {
		if s, ok := a.TryAcquire(c, owner); ok {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return Slot{}, ctx.Err()
		case <-time.After(pause):
		}
		pause = min(pause*2, 10*time.Millisecond)
	}
}

// Bytes is the memory of a slot, whole. The caller sees to it that it holds the
// slot, or checks [Arena.Live] after it has read.
func (a *Arena) Bytes(slot uint32) []byte {
	_, raw, sealed, _, _ := a.shape.offsets()
	n := int(slot)
	if n < a.shape.RawSlots {
		at := raw + n*align(a.shape.RawSize)
		return a.mem[at : at+a.shape.RawSize : at+a.shape.RawSize]
	}
	at := sealed + (n-a.shape.RawSlots)*align(a.shape.SealedSize)
	return a.mem[at : at+a.shape.SealedSize : at+a.shape.SealedSize]
}

// Valid reports whether a claim names memory that exists: messages are foreign bytes.
func (a *Arena) Valid(c Claim) bool {
	return !c.IsZero() && int(c.Slot) < a.shape.RawSlots+a.shape.SealedSlots && int(c.Length) <= len(a.Bytes(c.Slot))
}

// Live reports whether the slot still holds what the claim was made for.
func (a *Arena) Live(c Claim) bool {
	if !a.Valid(c) {
		return false
	}
	gen, _, state := unpack(a.word(c.Slot).Load())
	return gen == c.Generation && state != stateFree
}

// Promote marks a filled slot as handed over: from here on it belongs to the
// message, not to the process that filled it. False: the slot has moved on.
func (a *Arena) Promote(c Claim) bool {
	if !a.Valid(c) {
		return false
	}
	for {
		w := a.word(c.Slot).Load()
		gen, owner, state := unpack(w)
		if gen != c.Generation || state == stateFree {
			return false
		}
		if state == stateFull || a.word(c.Slot).CompareAndSwap(w, pack(gen, owner, stateFull)) {
			return true
		}
	}
}

// Release frees a slot whose bytes have been handed on. A claim that is not
// live any more, as duplicates have, frees nothing.
func (a *Arena) Release(c Claim) bool {
	if !a.Valid(c) {
		return false
	}
	for {
		w := a.word(c.Slot).Load()
		gen, _, state := unpack(w)
		if gen != c.Generation || state == stateFree {
			return false
		}
		if a.word(c.Slot).CompareAndSwap(w, pack(gen, 0, stateFree)) {
			return true
		}
	}
}

// Reap frees the slots that a dead process was filling. Only for the conductor,
// and only after the process has been waited for.
func (a *Arena) Reap(owner uint32) (freed int) {
	for n := range uint32(a.shape.RawSlots + a.shape.SealedSlots) {
		w := a.word(n).Load()
		gen, who, state := unpack(w)
		if state == stateFilling && who == owner&0xffffff && a.word(n).CompareAndSwap(w, pack(gen, 0, stateFree)) {
			freed++
		}
	}
	return freed
}

// Abandon frees the slots that belong to messages, because the messages are gone
// for good with the server that had them. Who still holds one finds its claim
// stale. Slots being filled stay: their messages are yet to be sent.
func (a *Arena) Abandon() (freed int) {
	for n := range uint32(a.shape.RawSlots + a.shape.SealedSlots) {
		w := a.word(n).Load()
		gen, _, state := unpack(w)
		if state == stateFull && a.word(n).CompareAndSwap(w, pack(gen, 0, stateFree)) {
			freed++
		}
	}
	return freed
}

// Usage counts the slots of a pool by state.
func (a *Arena) Usage(c Pool) (free, filling, full int) {
	from, to := a.slots(c)
	for n := from; n < to; n++ {
		switch _, _, state := unpack(a.word(n).Load()); state {
		case stateFree:
			free++
		case stateFilling:
			filling++
		default:
			full++
		}
	}
	return free, filling, full
}

// Claim is a hold on bytes in the arena. The zero Claim holds nothing
// (generations begin at 1).
type Claim struct {
	Slot       uint32 `json:"s"`
	Generation uint32 `json:"g"`
	Length     uint32 `json:"n"` // bytes used, from the slot's start
}

// IsZero reports whether nothing is claimed.
func (c Claim) IsZero() bool { return c.Generation == 0 }

// Claim is the claim on the first n bytes of a slot.
func (s Slot) Claim(n int) Claim {
	return Claim{Slot: s.Number, Generation: s.Generation, Length: uint32(n)}
}
