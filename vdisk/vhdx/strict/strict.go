package strict

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sort"
)

// Disk is an image as the strict reader sees it.
type Disk struct {
	file    io.ReaderAt
	size    int64            // of the file
	sectors map[int64][]byte // 4 KiB of the file, as the log leaves them
	parent  io.ReaderAt
	wrong   []error

	bat, meta area
	log       area

	Size       int64 // of the disk
	Block      int64
	Sector     int64
	Linkage    string // of the parent, as it is stored
	DataWrite  [16]byte
	FileWrite  [16]byte
	Dirty      bool // the log was not empty
	Whole      bool // the file has whole MiB, which writers give it and a crash may not leave
	hasParent  bool
	leave      bool
	entries    []uint64
	ratio      int64
	payload    int64
	parentKeys map[string]string
}

type area struct {
	name       string
	at, length int64
}

const mega = 1 << 20

func (d *Disk) broken(rule bool, format string, args ...any) {
	if !rule {
		d.wrong = append(d.wrong, fmt.Errorf(format, args...))
	}
}

// Open checks a file of the given size. parent is what a differencing image is
// read on; it may be nil, then sectors of the parent read as zeros.
func Open(file io.ReaderAt, size int64, parent io.ReaderAt) (*Disk, error) {
	d := &Disk{file: file, size: size, sectors: map[int64][]byte{}, parent: parent}
	for _, step := range []func(){d.headers, d.regions, d.metadata, d.table} {
		step()
		if len(d.wrong) > 0 {
			return d, errors.Join(d.wrong...)
		}
	}
	return d, nil
}

// get reads through the log. It returns zeros for what is not in the file, and
// says so.
func (d *Disk) get(at, n int64) []byte {
	b := make([]byte, n)
	if at < 0 || at+n > d.size {
		d.broken(false, "%d bytes at %d: the file has %d", n, at, d.size)
		return b
	}
	if _, err := d.file.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
		d.broken(false, "%v", err)
	}
	for s := at / 4096 * 4096; s < at+n; s += 4096 {
		p, ok := d.sectors[s]
		if !ok {
			continue
		}
		for i := range int64(4096) {
			if s+i >= at && s+i < at+n {
				b[s+i-at] = p[i]
			}
		}
	}
	return b
}

func u16(b []byte) int64  { return int64(binary.LittleEndian.Uint16(b)) }
func u32(b []byte) int64  { return int64(binary.LittleEndian.Uint32(b)) }
func u64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
func nul(b []byte) bool   { return len(b) == 0 || b[0] == 0 && string(b[1:]) == string(b[:len(b)-1]) }
func sumOK(b []byte) bool {
	c := append([]byte{}, b...)
	copy(c[4:8], "\x00\x00\x00\x00")
	return u32(b[4:]) == int64(crc32.Checksum(c, crc32.MakeTable(crc32.Castagnoli)))
}

// guid is a GUID in the usual form.
func guid(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", u32(b), u16(b[4:]), u16(b[6:]), b[8:10], b[10:16])
}

// headers checks both headers, of which a writer may be killed over one, and
// replays the log. Sections 2.2.1, 2.2.2 and 2.3.
func (d *Disk) headers() {
	d.Whole = d.size%mega == 0
	d.broken(string(d.get(0, 8)) == "vhdxfile", "no identifier")
	var current []byte
	for _, at := range []int64{64 << 10, 128 << 10} {
		h := d.get(at, 4096)
		if string(h[:4]) != "head" || !sumOK(h) {
			continue
		}
		d.broken(nul(h[80:]), "reserved bytes of the header at %d", at)
		if current == nil || u64(h[8:]) > u64(current[8:]) {
			current = h
		} else {
			d.broken(u64(h[8:]) != u64(current[8:]) || string(h) == string(current), "two headers with one number")
		}
	}
	if current == nil {
		d.broken(false, "no valid header")
		return
	}
	copy(d.FileWrite[:], current[16:])
	copy(d.DataWrite[:], current[32:])
	d.broken(!nul(d.FileWrite[:]), "no file write GUID")
	d.broken(!nul(d.DataWrite[:]), "no data write GUID")
	d.broken(u16(current[64:]) == 0 && u16(current[66:]) == 1, "versions %d and %d", u16(current[64:]), u16(current[66:]))
	d.log = area{"log", int64(u64(current[72:])), u32(current[68:])}
	d.broken(d.log.length > 0, "no log")
	d.placed(d.log)
	if len(d.wrong) == 0 && !nul(current[48:64]) {
		d.Dirty = true
		d.replay(current[48:64])
	}
}

func (d *Disk) placed(a area) {
	d.broken(a.at >= mega && a.at%mega == 0 && a.length%mega == 0 && a.at+a.length <= d.size,
		"%s: %d bytes at %d of %d", a.name, a.length, a.at, d.size)
}

// regions checks both region tables, which are one. Section 2.2.3.
func (d *Disk) regions() {
	t := d.get(192<<10, 64<<10)
	d.broken(string(t) == string(d.get(256<<10, 64<<10)), "the region tables differ")
	d.broken(string(t[:4]) == "regi" && sumOK(t), "the region table's signature or checksum")
	count := u32(t[8:])
	d.broken(nul(t[12:16]) && count <= 2047, "the region table's head")
	if len(d.wrong) > 0 {
		return
	}
	d.broken(nul(t[16+32*count:]), "bytes behind the region table")
	for i := range count {
		e := t[16+32*i:][:32]
		a := area{guid(e), int64(u64(e[16:])), u32(e[24:])}
		d.placed(a)
		switch d.broken(u32(e[28:]) <= 1, "flags of region %s", a.name); a.name {
		case "2dc27766-f623-4200-9d64-115e9bfd4a08":
			d.broken(d.bat.length == 0 && u32(e[28:]) == 1, "the BAT is there twice, or not required")
			d.bat = a
		case "8b7ca206-4790-4b9a-b8fe-575f050f886e":
			d.broken(d.meta.length == 0 && u32(e[28:]) == 1, "the metadata is there twice, or not required")
			d.meta = a
		default:
			d.broken(u32(e[28:]) == 0, "unknown region %s is required", a.name)
		}
	}
	d.broken(d.bat.length > 0 && d.meta.length > 0, "a region is missing")
}

// metadata checks the table and all items. Section 2.6.
func (d *Disk) metadata() {
	t := d.get(d.meta.at, 64<<10)
	count := u16(t[10:])
	d.broken(string(t[:8]) == "metadata" && nul(t[8:10]) && nul(t[12:32]) && count <= 2047, "the metadata table's head")
	if len(d.wrong) > 0 {
		return
	}
	d.broken(nul(t[32+32*count:]), "bytes behind the metadata table")
	items, flags := map[string][]byte{}, map[string]int64{}
	var spans [][2]int64
	for i := range count {
		e := t[32+32*i:][:32]
		id, at, n := guid(e), u32(e[16:]), u32(e[20:])
		d.broken(items[id] == nil, "item %s twice", id)
		d.broken(at >= 64<<10 && n > 0 && n <= mega && at+n <= d.meta.length, "item %s: %d bytes at %d", id, n, at)
		d.broken(u32(e[24:]) <= 7 && nul(e[28:]), "flags of item %s", id)
		if len(d.wrong) > 0 {
			return
		}
		items[id], flags[id] = d.get(d.meta.at+at, n), u32(e[24:])
		spans = append(spans, [2]int64{at, at + n})
	}
	sort.Slice(spans, func(i, j int) bool { return spans[i][0] < spans[j][0] })
	for i := 1; i < len(spans); i++ {
		d.broken(spans[i-1][1] <= spans[i][0], "items overlap at %d", spans[i][0])
	}
	for _, want := range []struct {
		id     string
		length int
		flags  int64
	}{
		{"caa16737-fa36-4d43-b3b6-33f0aa44e76b", 8, 4}, {"2fa54224-cd1b-4876-b211-5dbed83bf4b8", 8, 6},
		{"beca12ab-b2e6-4523-93ef-c309e000c746", 16, 6}, {"8141bf1d-a96f-4709-ba47-f233a8faab5f", 4, 6},
		{"cda348c7-445d-4471-9cc9-e9885251c556", 4, 6},
	} {
		d.broken(len(items[want.id]) == want.length && flags[want.id] == want.flags, "item %s: %d bytes, flags %d", want.id, len(items[want.id]), flags[want.id])
	}
	if len(d.wrong) > 0 {
		return
	}
	p := items["caa16737-fa36-4d43-b3b6-33f0aa44e76b"]
	d.Block, d.leave, d.hasParent = u32(p), p[4]&1 != 0, p[4]&2 != 0
	d.Size = int64(u64(items["2fa54224-cd1b-4876-b211-5dbed83bf4b8"]))
	d.Sector = u32(items["8141bf1d-a96f-4709-ba47-f233a8faab5f"])
	physical := u32(items["cda348c7-445d-4471-9cc9-e9885251c556"])
	d.broken(p[4] <= 3 && nul(p[5:]), "reserved file parameters")
	d.broken(d.Block >= mega && d.Block <= 256*mega && d.Block&(d.Block-1) == 0, "block size %d", d.Block)
	d.broken(d.Sector == 512 || d.Sector == 4096, "logical sector %d", d.Sector)
	d.broken(physical == 512 || physical == 4096, "physical sector %d", physical)
	d.broken(d.Sector > 0 && d.Size%max(1, d.Sector) == 0 && d.Size >= 0 && d.Size <= 64<<40, "disk size %d", d.Size)
	locator := items["a8d35f2d-b30b-454d-abf7-d3d84834ab0c"]
	d.broken(d.hasParent == (locator != nil), "a parent without locator, or the reverse")
	if locator != nil && len(d.wrong) == 0 {
		d.broken(flags["a8d35f2d-b30b-454d-abf7-d3d84834ab0c"] == 4, "flags of the parent locator")
		d.locator(locator)
	}
}

// locator checks the parent locator. Section 2.6.2.6.
func (d *Disk) locator(b []byte) {
	d.broken(len(b) >= 20 && guid(b) == "b04aefb7-d19e-4a81-b789-25b8e9445913" && nul(b[16:18]), "the parent locator's head")
	if len(d.wrong) > 0 {
		return
	}
	d.parentKeys = map[string]string{}
	text := func(at, n int64) string {
		if n == 0 || n%2 != 0 || at < 20 || at+n > int64(len(b)) {
			d.broken(false, "a string of the parent locator: %d bytes at %d", n, at)
			return ""
		}
		out := []rune{}
		for i := at; i < at+n; i += 2 {
			c := rune(u16(b[i:]))
			d.broken(c != 0, "a string of the parent locator has a zero")
			out = append(out, c)
		}
		return string(out)
	}
	for i := range u16(b[18:]) {
		if 20+12*(i+1) > int64(len(b)) {
			d.broken(false, "the parent locator's entries")
			return
		}
		e := b[20+12*i:]
		key := text(u32(e), u16(e[8:]))
		d.broken(d.parentKeys[key] == "", "key %q twice", key)
		d.parentKeys[key] = text(u32(e[4:]), u16(e[10:]))
	}
	d.Linkage = d.parentKeys["parent_linkage"]
	d.broken(len(d.Linkage) == 38 && d.Linkage[0] == '{', "linkage %q", d.Linkage)
	d.broken(d.parentKeys["relative_path"]+d.parentKeys["volume_path"]+d.parentKeys["absolute_win32_path"] != "", "no path of the parent")
}
