package strict

// record is a log entry that is valid by itself.
type record struct {
	at, length, tail int64
	number           uint64
	b                []byte
}

// replay finds the active sequence of the log and makes its changes in memory.
// Sections 2.3.1 to 2.3.3.
func (d *Disk) replay(id []byte) {
	ring := d.get(d.log.at, d.log.length)
	var best []record
	for at := int64(0); at < d.log.length; at += 4096 {
		var run []record
		for p, covered := at, int64(0); covered < d.log.length; {
			r, ok := d.record(ring, p, id)
			if !ok || len(run) > 0 && r.number != run[len(run)-1].number+1 || covered+r.length > d.log.length {
				break
			}
			run = append(run, r)
			covered += r.length
			p = (p + r.length) % d.log.length
		}
		for len(run) > 0 {
			head := run[len(run)-1]
			first := -1
			for i, r := range run {
				if r.at == head.tail {
					first = i
				}
			}
			if first >= 0 {
				if len(best) == 0 || head.number > best[len(best)-1].number {
					best = run[first:]
				}
				break
			}
			run = run[:len(run)-1]
		}
	}
	if len(best) == 0 {
		d.broken(false, "a log GUID, and no valid sequence")
		return
	}
	head := best[len(best)-1]
	flushed, last := int64(u64(head.b[48:])), int64(u64(head.b[56:]))
	d.broken(flushed%mega == 0 && last%mega == 0, "file offsets %d and %d of the log", flushed, last)
	d.broken(d.size >= flushed, "the log says that the file has %d bytes, it has %d", flushed, d.size)
	d.size = max(d.size, last)
	for _, r := range best {
		d.apply(r)
	}
}

// record returns the entry at a place of the ring, if it is valid.
func (d *Disk) record(ring []byte, at int64, id []byte) (record, bool) {
	h := ring[at:][:64]
	r := record{at: at, length: u32(h[8:]), tail: u32(h[12:]), number: u64(h[16:])}
	if string(h[:4]) != "loge" || string(h[32:48]) != string(id) || r.number == 0 ||
		r.length == 0 || r.length%4096 != 0 || r.length > d.log.length || r.tail%4096 != 0 || !nul(h[28:32]) {
		return r, false
	}
	for i := range r.length {
		r.b = append(r.b, ring[(at+i)%d.log.length])
	}
	if !sumOK(r.b) {
		return r, false
	}
	count := u32(h[24:])
	data := (64 + 32*count + 4095) / 4096 * 4096
	for i := range count {
		e := r.b[64+32*i:][:32]
		if u64(e[24:]) != r.number {
			return r, false
		}
		switch string(e[:4]) {
		case "zero":
			if !nul(e[4:8]) {
				return r, false
			}
		case "desc":
			if data+4096 > r.length {
				return r, false
			}
			s := r.b[data:][:4096]
			if string(s[:4]) != "data" || uint64(u32(s[4:]))<<32|uint64(u32(s[4092:])) != r.number {
				return r, false
			}
			data += 4096
		default:
			return r, false
		}
	}
	return r, true
}

// apply makes the changes of an entry in memory.
func (d *Disk) apply(r record) {
	count := u32(r.b[24:])
	data := (64 + 32*count + 4095) / 4096 * 4096
	for i := range count {
		e := r.b[64+32*i:][:32]
		at := int64(u64(e[16:]))
		d.broken(at%4096 == 0 && at >= 192<<10, "entry %d of the log changes %d", r.number, at)
		d.broken(at < d.log.at || at >= d.log.at+d.log.length, "entry %d of the log changes the log", r.number)
		if string(e[:4]) == "zero" {
			n := int64(u64(e[8:]))
			d.broken(n%4096 == 0, "entry %d of the log zeroes %d bytes", r.number, n)
			for s := at; s < at+n && s < d.size; s += 4096 {
				d.sectors[s] = make([]byte, 4096)
			}
			continue
		}
		s := append([]byte{}, e[8:16]...)
		s = append(s, r.b[data+8:data+4092]...)
		d.sectors[at] = append(s, e[4:8]...)
		data += 4096
	}
}
