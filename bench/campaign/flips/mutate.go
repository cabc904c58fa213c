package flips

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
)

// mutation is what one trial does to the vault.
type mutation struct {
	kind   string // of object
	what   string // is done
	object string
	second string // the other one of a swap
	detail string
	before map[string][]byte // what is changed, as it was
	after  map[string][]byte // nil: not there
}

func (m mutation) String() string {
	s := m.what + " of " + m.object
	if m.second != "" {
		s += " and " + m.second
	}
	return s + m.detail
}

// gone reports that the object is not there, or that what is there is not this
// vault's.
func (m mutation) gone() bool { return m.what == "removal" || m.what == "foreign" }

// disposable reports that the object is of a type that may be lost or altered
// without anyone having to notice.
func (m mutation) disposable() bool {
	return !slices.Contains([]string{"vault", "keys", "checkpoints", "ledger", "tables", "packs", "domains", unneeded}, m.kind)
}

// mutations by name. Each returns the new content; nil means that it is removed.
func mutations() []string {
	return []string{"flip", "truncation", "removal", "swap", "zeroing", "extension", "replacement", "foreign", "replay"}
}

// choose takes types of objects in turn, and mutations in turn within a type, so
// that any number of trials in a row covers all; the rest is random.
func (b *bench) choose(n int, rng *rand.Rand) (mutation, error) {
	kind := b.kinds[n%len(b.kinds)]
	all := mutations()
	m := mutation{kind: kind, what: all[n/len(b.kinds)%len(all)], before: map[string][]byte{}, after: map[string][]byte{}}
	names := b.byKind[kind]
	m.object = names[rng.IntN(len(names))]
	if len(names) == 1 && (m.what == "swap" || m.what == "replacement" || m.what == "replay") {
		m.what = "flip" // there is no other
	}
	if m.what == "replay" { // the first has none before it
		m.object = names[1+rng.IntN(len(names)-1)]
	}
	for range 100 {
		if b.mutate(&m, names, rng); !m.same() {
			return m, nil
		}
	}
	return m, fmt.Errorf("%s changes nothing", m)
}

// same reports that nothing was changed: zeros were zeroed, say.
func (m mutation) same() bool {
	for name, was := range m.before {
		if m.after[name] == nil || !bytes.Equal(was, m.after[name]) {
			return false
		}
	}
	return true
}

func (b *bench) mutate(m *mutation, names []string, rng *rand.Rand) {
	was := b.objects[m.object]
	now := bytes.Clone(was)
	from, to, part := b.part(m.object, rng)
	at := from
	if to > from {
		at += rng.IntN(to - from)
	}
	m.detail = fmt.Sprintf(" at %d of %d, %s", at, len(was), part)
	m.before[m.object] = was
	switch m.what {
	case "flip":
		now[at] ^= 1 << rng.IntN(8)
	case "zeroing":
		clear(now[at:min(at+1+rng.IntN(4096), len(now))])
	case "truncation":
		now = now[:at]
	case "extension":
		more := make([]byte, 1+rng.IntN(4096))
		for i := range more {
			more[i] = byte(rng.Uint32())
		}
		now, m.detail = append(now, more...), fmt.Sprintf(" by %d bytes", len(more))
	case "removal":
		now, m.detail = nil, ""
	case "foreign":
		now, m.detail = b.foreign[m.kind], " in its place"
	case "replay":
		m.second, m.detail = names[rng.IntN(slices.Index(names, m.object))], ", which is older"
		now = b.objects[m.second]
	case "replacement", "swap":
		others := slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == m.object })
		m.second, m.detail = others[rng.IntN(len(others))], ""
		now = b.objects[m.second]
		if m.what == "swap" {
			m.before[m.second], m.after[m.second] = b.objects[m.second], was
		}
	}
	m.after[m.object] = now
}

// part picks a part of an object, so that short ones are hit as often as long
// ones, and says where it is.
func (b *bench) part(name string, rng *rand.Rand) (from, to int, part string) {
	size := len(b.objects[name])
	info, ok := b.packs[name]
	if !ok {
		return 0, size, "anywhere"
	}
	first, last := info.Entries[0], info.Entries[len(info.Entries)-1]
	footer := int(last.Offset + last.Stored)
	switch rng.IntN(6) {
	case 0:
		return 0, int(first.Offset), "header"
	case 1:
		return footer, size - trailer, "footer"
	case 2:
		return size - trailer, size, "trailer"
	}
	return int(first.Offset), footer, "chunks"
}

// trailer is the length of the last part of a pack; docs/format/pack.md.
const trailer = 16
