package flips

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/apart"
)

// judge returns what is not as the package comment promises.
func (b *base) judge(m mutation, f found) (wrong []error) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	for _, p := range b.points {
		r, ok := f.points[p.Point]
		switch {
		case !ok:
		case r.restore == nil && !r.equal:
			say("WRONG BYTES: point %s restores without an error", id.Short(p.Point))
		case r.restore != nil && !errors.Is(r.restore, vault.ErrDamaged) && !m.keysGone(r.restore):
			say("point %s: an error that is no damage: %w", id.Short(p.Point), r.restore)
		}
		if ok && r.verify != nil && !errors.Is(r.verify, vault.ErrDamaged) && !m.keysGone(r.verify) {
			say("point %s: verify: an error that is no damage: %w", id.Short(p.Point), r.verify)
		}
	}
	for pack, err := range f.packs {
		if _, hit := m.after[pack]; !hit || !errors.Is(err, vault.ErrDamaged) {
			say("%s is said to be damaged: %w", pack, err)
		}
	}
	switch m.kind {
	case "vault":
		for secret, err := range f.open {
			if !errors.Is(err, vault.ErrDamaged) && !errors.Is(err, vault.ErrNewer) && !errors.Is(err, vault.ErrNoVault) {
				say("the vault opens with its %s: %v", secret, err)
			}
		}
	case "keys":
		b.judgeKeys(m, f, say)
	case "checkpoints":
		if m.what != "removal" && !names(f, m.object) {
			say("not detected: %v", f.vault)
		}
		b.allWhole(f, say)
	case "ledger":
		// Of two that are damaged the first that is met hides the other.
		if !names(f, m.object) && !newerNamed(f, m.object) && (m.second == "" || !names(f, m.second) && !newerNamed(f, m.second)) {
			say("not detected: %v", f.vault)
		}
	case "domains":
		b.judgeDomain(m, f, say)
	case "tables":
		b.judgeTable(m, f, say)
	case "packs":
		b.judgePack(m, f, say)
		for pack := range m.after {
			if f.packs[pack] == nil {
				say("not detected by its hash: %s", pack)
			}
		}
	case unneeded:
		if f.packs[m.object] == nil {
			say("not detected")
		}
		b.allWhole(f, say)
	default:
		b.allWhole(f, say)
	}
	return wrong
}

type sayer func(format string, args ...any)

// names reports whether some error about the vault names the object.
func names(f found, object string) bool {
	all := slices.Clone(f.vault)
	for _, err := range f.open {
		all = append(all, err)
	}
	return slices.ContainsFunc(all, func(err error) bool {
		return err != nil && errors.Is(err, vault.ErrDamaged) && strings.Contains(err.Error(), object)
	})
}

// allWhole wants every point to be whole.
func (b *base) allWhole(f found, say sayer) {
	if f.points == nil {
		say("no secret opens the vault: %v", f.open)
	}
	for _, p := range b.points {
		if r, ok := f.points[p.Point]; ok && (r.verify != nil || r.restore != nil || !r.equal) {
			say("point %s does not need %v and is not whole: verify %v, restore %v", id.Short(p.Point), "what was hit", r.verify, r.restore)
		}
	}
}

// judgeKeys: a damaged key is named, every other one opens the vault.
func (b *base) judgeKeys(m mutation, f found, say sayer) {
	hit := map[string]bool{m.object: true}
	if m.what == "swap" {
		hit[m.second] = true
	}
	for kind, object := range b.secrets {
		err := f.open[kind]
		switch {
		case !hit[object] && err != nil:
			say("the %s does not open the vault: %w", kind, err)
		case hit[object] && err == nil:
			say("the damaged %s opens the vault", kind)
		case hit[object] && m.gone() && !errors.Is(err, vault.ErrWrongKey):
			say("the %s is gone: %v", kind, err)
		case hit[object] && !m.gone() && !errors.Is(err, vault.ErrDamaged) && !errors.Is(err, vault.ErrNewer):
			say("the %s is damaged: %v", kind, err)
		}
	}
	for object := range hit {
		if !m.gone() && !names(f, object) && !newerNamed(f, object) {
			say("%s is not named: %v", object, f.vault)
		}
	}
	if len(hit) < len(b.secrets) {
		b.allWhole(f, say)
	}
}

// keysGone: keys that are gone are not damaged, and may be put back.
func (m mutation) keysGone(err error) bool {
	return m.kind == "domains" && m.what == "removal" && errors.Is(err, vault.ErrNoDomain)
}

// judgeDomain: the points of a domain whose keys were hit are refused, all others are whole.
func (b *base) judgeDomain(m mutation, f found, say sayer) {
	hit := map[id.Domain]bool{}
	for name := range m.after {
		if d, ok := apart.DomainOf(name); ok {
			hit[d] = true
		}
	}
	for _, p := range b.points {
		r, ok := f.points[p.Point]
		switch {
		case !ok:
			say("point %s cannot be reached: %v", id.Short(p.Point), f.open)
		case !hit[p.Domain] && (r.verify != nil || r.restore != nil || !r.equal):
			say("point %s has other keys and is not whole: verify %v, restore %v", id.Short(p.Point), r.verify, r.restore)
		case hit[p.Domain] && (r.verify == nil || r.restore == nil):
			say("not detected: point %s: verify %v, restore %v", id.Short(p.Point), r.verify, r.restore)
		case hit[p.Domain] && !strings.Contains(fmt.Sprint(r.restore), apart.Folder(p.Domain)):
			say("point %s does not name its keys: %v", id.Short(p.Point), r.restore)
		}
	}
}

// newerNamed: a flipped format number makes a key or a segment one of a later
// version, for all that can be told; it is refused by its name.
func newerNamed(f found, object string) bool {
	return slices.ContainsFunc(f.vault, func(err error) bool {
		return errors.Is(err, vault.ErrNewer) && strings.Contains(err.Error(), object)
	})
}

// judgeTable: points that name the table say so, all others are whole.
func (b *base) judgeTable(m mutation, f found, say sayer) {
	hit := []string{m.object}
	if m.what == "swap" {
		hit = append(hit, m.second)
	}
	detected := map[string]bool{}
	for _, p := range b.points {
		r, ok := f.points[p.Point]
		if !ok {
			say("point %s cannot be reached: %v", id.Short(p.Point), f.open)
			continue
		}
		needs := slices.ContainsFunc(hit, func(t string) bool { return p.tables[t] })
		if !needs && (r.verify != nil || r.restore != nil || !r.equal) {
			say("point %s does not use the table: verify %v, restore %v", id.Short(p.Point), r.verify, r.restore)
		}
		for _, d := range r.report.Damages {
			if !slices.Contains(hit, d.Object) {
				say("point %s: %s is blamed", id.Short(p.Point), d.Object)
			}
			detected[d.Object] = true
		}
		if r.restore != nil && r.verify == nil {
			say("point %s: not detected, and yet restore says %v", id.Short(p.Point), r.restore)
		}
	}
	for _, t := range hit {
		used := slices.ContainsFunc(b.points, func(p *point) bool { return p.tables[t] })
		if used && !detected[t] {
			say("%s: not detected", t)
		}
	}
}

// judgePack: each changed chunk is named by every point that needs it, with the
// ranges that do, and nothing else is.
func (b *base) judgePack(m mutation, f found, say sayer) {
	for _, p := range b.points {
		r, ok := f.points[p.Point]
		if !ok {
			say("point %s cannot be reached: %v", id.Short(p.Point), f.open)
			continue
		}
		var lost []use // by changed bytes, in all packs that were hit
		frames := map[string]bool{}
		for pack, now := range m.after {
			uses := p.uses[pack]
			if len(uses) == 0 {
				continue
			}
			frames[pack] = b.framed(pack, now)
			for _, u := range uses {
				if changed(m.before[pack], now, u.at, u.at+u.stored) {
					lost = append(lost, u)
				}
			}
		}
		if (r.restore != nil) != (len(lost) > 0) {
			say("point %s: %d of its ranges are hit, restore says %v", id.Short(p.Point), len(lost), r.restore)
		}
		b.judgeReport(m, p, r.report, lost, frames, func(format string, args ...any) {
			say("point %s: "+format, append([]any{id.Short(p.Point)}, args...)...)
		})
	}
}

// framed reports that header, footer or trailer are not what they were, or not
// where they were.
func (b *base) framed(pack string, now []byte) bool {
	was, info := b.objects[pack], b.packs[pack]
	first, last := info.Entries[0], info.Entries[len(info.Entries)-1]
	footer := int64(last.Offset + last.Stored)
	return len(was) != len(now) || changed(was, now, 0, int64(first.Offset)) || changed(was, now, footer, int64(len(was)))
}

// changed reports whether bytes from to to are other ones, or not there.
func changed(was, now []byte, from, to int64) bool {
	return int64(len(now)) < to || string(was[from:to]) != string(now[from:to])
}

// judgeReport holds verify's report of a point to what was hit.
func (b *base) judgeReport(m mutation, p *point, r restore.Report, lost []use, frames map[string]bool, say sayer) {
	chunks := map[id.Chunk][]use{}
	for _, u := range lost {
		chunks[u.chunk] = append(chunks[u.chunk], u)
	}
	// A whole pack in the place of another of its job has a footer that opens: it
	// shows by what is not where tables say.
	whole := m.second != ""
	framed := map[string]bool{}
	for _, d := range r.Damages {
		bad, hit := frames[d.Object]
		framed[d.Object] = framed[d.Object] || whole
		switch {
		case !hit:
			say("%s is blamed, which was not hit", d.Object)
		case d.Chunk.IsZero() && !bad:
			say("all of %s is blamed, its header and footer are whole", d.Object)
		case d.Chunk.IsZero():
			framed[d.Object] = true
		case chunks[d.Chunk] == nil && !bad:
			say("chunk %s is blamed, which was not hit", id.Short(d.Chunk))
		case chunks[d.Chunk] == nil && !whole:
			say("chunk %s is blamed for what hit the frame of its pack: %v", id.Short(d.Chunk), d.Cause)
		case chunks[d.Chunk] != nil && !covers(d.Ranges, chunks[d.Chunk]):
			say("chunk %s: ranges %v are reported, hit are %v", id.Short(d.Chunk), d.Ranges, chunks[d.Chunk])
		default:
			delete(chunks, d.Chunk)
		}
	}
	for pack, bad := range frames {
		if bad && !framed[pack] {
			say("not detected: header or footer of %s", pack)
		}
		// A pack that is not there is one damage, not one for each chunk.
		if bad && m.after[pack] == nil {
			clear(chunks)
		}
	}
	for c := range chunks {
		say("not detected: chunk %s", id.Short(c))
	}
}

// covers reports whether ranges are exactly those of uses.
func covers(ranges []restore.Range, uses []use) bool {
	type byteRange struct {
		disk     id.Disk
		from, to int64
	}
	var got, want []byteRange
	add := func(all *[]byteRange, x byteRange) {
		if n := len(*all); n > 0 && (*all)[n-1].disk == x.disk && (*all)[n-1].to == x.from {
			(*all)[n-1].to = x.to
			return
		}
		*all = append(*all, x)
	}
	for _, r := range ranges {
		add(&got, byteRange{r.Disk, r.Offset, r.Offset + r.Length})
	}
	for _, u := range uses {
		add(&want, byteRange{u.disk, u.offset, u.offset + u.length})
	}
	return slices.Equal(got, want)
}
