package drivertest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
)

// Branched makes the tree of an exported machine that went back to its first checkpoint
// once, so that three of its six are on a branch that it does not run on:
//
//	base ─┬─ b1 ── b2 ── b3     checkpoints first (base), second (b1), third (b2), left (b3)
//	      └─ c1 ── c2 ── c3     checkpoints fourth (c1), fifth (c2); it runs on c3
//
// As 2012 R2 had it, of generation 1, with VHDs and configurations in XML; or as 2019 has
// it, of generation 2, with VHDXs and .vmcx. It returns what a guest sees of each image,
// worked out without any.
func Branched(dir string, year int) (map[string][]byte, error) {
	b := branched{dir: dir, year: year, file: map[string]string{}, seen: map[string][]byte{"": make([]byte, 5<<20+4096)}}
	for _, folder := range []string{"Virtual Hard Disks", "Virtual Machines", "Snapshots"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			return nil, err
		}
	}
	for n, image := range [][2]string{{"base", ""}, {"b1", "base"}, {"b2", "b1"}, {"b3", "b2"}, {"c1", "base"}, {"c2", "c1"}, {"c3", "c2"}} {
		if err := b.image(image[0], image[1], uint64(n)); err != nil {
			return nil, err
		}
	}
	err := b.describe("Virtual Machines", fmt.Sprint("box of ", year), "c3", 0)
	for n, checkpoint := range [][2]string{{"first", "base"}, {"second", "b1"}, {"third", "b2"}, {"left", "b3"}, {"fourth", "c1"}, {"fifth", "c2"}} {
		err = errors.Join(err, b.describe("Snapshots", checkpoint[0], checkpoint[1], n+1))
	}
	delete(b.seen, "")
	return b.seen, err
}

type branched struct {
	dir  string
	year int
	file map[string]string // of each image
	seen map[string][]byte
}

func (b *branched) old() bool { return b.year < 2016 }

// image writes one that is laid on another, or on none.
func (b *branched) image(name, on string, seed uint64) error {
	unit, ext := int64(4096), "vhdx"
	if b.old() {
		unit, ext = 512, "vhd"
	}
	b.file[name] = name + "." + ext
	if on != "" {
		b.file[name] = name + ".a" + ext
	}
	size := int64(len(b.seen[""]))
	patches := patchesOf(seed, size, unit)
	b.seen[name] = Patched(b.seen[on], patches)
	path, parent := filepath.Join(b.dir, "Virtual Hard Disks", b.file[name]), ""
	if on != "" {
		parent = filepath.Join(filepath.Dir(path), b.file[on])
	}
	switch {
	case b.old():
		return VHDLayer(path, parent, size, patches)
	case on == "":
		return VHDX(path, b.seen[name])
	}
	return VHDXLayer(path, parent, patches)
}

// describe writes a configuration and saved states.
func (b *branched) describe(folder, name, image string, number int) error {
	m := vmconfig.Machine{
		Name: name, Kind: folder, ID: fmt.Sprintf("0aa394fa-7c4a-4070-%04d-%012d", b.year, number), Generation: 2, Version: "9.0", Processors: 2, Memory: 2048,
		Disks: []vmconfig.Disk{{Controller: "SCSI", Type: "VHD", Path: `C:\VMs\Virtual Hard Disks\` + strings.ToUpper(b.file[image])}},
	}
	guid := strings.ToUpper(m.ID)
	path := filepath.Join(b.dir, folder, guid)
	files := map[string][]byte{".vmcx": VMCX(m), ".vmrs": []byte(name), ".vmgs": []byte("firmware of " + name)}
	if b.old() {
		m.Generation, m.Version, m.Disks[0].Controller = 1, "5.0", "IDE"
		files = map[string][]byte{".xml": XML(m), "/" + guid + ".bin": []byte(name), "/" + guid + ".vsv": []byte("memory of " + name)}
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
	}
	for ext, content := range files {
		if err := os.WriteFile(path+ext, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// patchesOf are what one layer changes: pieces of many lengths, most of which no other
// layer has, zeros over what a layer below may have, and the last sector.
func patchesOf(seed uint64, size, unit int64) (out []Patch) {
	r := rand.New(rand.NewPCG(seed, 7))
	for range 9 {
		length := unit * (1 + r.Int64N(13))
		p := Patch{Offset: unit * r.Int64N((size-length)/unit+1), Data: make([]byte, length)}
		for i := 0; i < len(p.Data); i += 8 {
			binary.LittleEndian.PutUint64(p.Data[i:], r.Uint64())
		}
		out = append(out, p)
	}
	return append(out, Patch{3 * unit, make([]byte, unit*int64(seed))}, Patch{size - unit, []byte(strings.Repeat("end ", int(unit)/4))})
}
