package drivertest

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"strings"
	"unicode/utf16"

	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
)

// pair is a name of a configuration with a value (string, int64 or bool) or with
// pairs below it.
type pair struct {
	name  string
	value any
	below []pair
}

// described is a machine as Hyper-V's configurations lay it out, as far as is known.
func described(m vmconfig.Machine) pair {
	const ide, scsi = "83f8638b-8dca-4152-9eda-2ca8b33039b4", "d422512d-2bf2-4752-809d-7b82b5fcb1b4"
	var major, minor int64
	_, _ = fmt.Sscanf(m.Version, "%d.%d", &major, &minor)
	out := pair{name: "configuration", below: []pair{
		{name: "properties", below: []pair{
			{name: "name", value: m.Name}, {name: "global_id", value: strings.ToUpper(m.ID)}, {name: "type_id", value: m.Kind},
			{name: "subtype", value: int64(m.Generation - 1)}, {name: "version", value: major<<8 | minor},
		}},
		{name: "settings", below: []pair{
			{name: "global", below: []pair{{name: "logical_id", value: strings.ToUpper(m.ID)}}},
			{name: "memory", below: []pair{{name: "bank", below: []pair{
				{name: "dynamic_memory_enabled", value: m.Dynamic}, {name: "limit", value: m.MemoryMax},
				{name: "reservation", value: m.MemoryMin}, {name: "size", value: m.Memory},
			}}}},
			{name: "processors", below: []pair{{name: "count", value: m.Processors}}},
		}},
	}}
	manifest := pair{name: "manifest", below: []pair{{name: "vdev001", below: []pair{{name: "device", value: ide}, {name: "instance", value: strings.ToUpper(ide)}}}}}
	idePair := pair{name: "_" + ide + "_"}
	var scsiPairs []pair
	for _, d := range m.Disks {
		drive := pair{name: fmt.Sprintf("drive%d", d.Location), below: []pair{{name: "pathname", value: d.Path}, {name: "type", value: d.Type}}}
		if d.Controller == "IDE" {
			idePair.below = append(idePair.below, pair{name: fmt.Sprintf("controller%d", d.Number), below: []pair{drive}})
			continue
		}
		for len(scsiPairs) <= d.Number { // each SCSI controller is a device with one controller
			instance := fmt.Sprintf("d7a36e9b-9256-4f0d-be2c-%012x", len(scsiPairs))
			manifest.below = append(manifest.below, pair{name: fmt.Sprintf("vdev%03d", len(scsiPairs)+2), below: []pair{
				{name: "device", value: scsi}, {name: "instance", value: strings.ToUpper(instance)}}})
			scsiPairs = append(scsiPairs, pair{name: "_" + instance + "_", below: []pair{{name: "controller0"}}})
		}
		c := &scsiPairs[d.Number].below[0]
		c.below = append(c.below, drive)
	}
	out.below = append(append(out.below, manifest, idePair), scsiPairs...)
	return out
}

// XML is the configuration of a machine as Hyper-V to 2012 R2 writes it, in UTF-16.
func XML(m vmconfig.Machine) []byte {
	var b strings.Builder
	b.WriteString("\uFEFF<?xml version=\"1.0\" encoding=\"UTF-16\" standalone=\"yes\"?>\r\n")
	writeXML(&b, described(m))
	var out []byte
	for _, u := range utf16.Encode([]rune(b.String())) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

func writeXML(b *strings.Builder, p pair) {
	kind, text := "", ""
	switch v := p.value.(type) {
	case string:
		kind, text = "string", v
	case int64:
		kind, text = "integer", fmt.Sprint(v)
	case bool:
		kind, text = "bool", map[bool]string{true: "True", false: "False"}[v]
	}
	if kind == "" {
		fmt.Fprintf(b, "<%s>\r\n  ", p.name)
		for _, below := range p.below {
			writeXML(b, below)
		}
	} else {
		fmt.Fprintf(b, `<%s type="%s">`, p.name, kind)
		_ = xml.EscapeText(b, []byte(text))
	}
	fmt.Fprintf(b, "</%s>\r\n", p.name)
}

// VMCX is the configuration of a machine as Hyper-V since 2016 writes it, as far as
// is known: every node has a table of its own, and strings of 64 bytes and more are
// kept outside. Sums are not those that Hyper-V would write.
func VMCX(m vmconfig.Machine) []byte {
	s := store{values: make([]byte, 0)}
	s.add(described(m), 0, 0)
	const tablesAt, tableSize = 0x4000, 0x1000
	valuesAt := tablesAt + tableSize*len(s.tables)
	b := make([]byte, valuesAt+len(s.values))
	for i, at := range []int{0, 0x1000} {
		binary.LittleEndian.PutUint32(b[at:], 0x01282014)
		binary.LittleEndian.PutUint16(b[at+8:], uint16(7-i))
		binary.LittleEndian.PutUint32(b[at+10:], 0x400)
		binary.LittleEndian.PutUint32(b[at+22:], 0x1000)
		binary.LittleEndian.PutUint64(b[at+26:], 0x3000)
		binary.LittleEndian.PutUint64(b[at+34:], 0x1000)
		binary.LittleEndian.PutUint32(b[at+42:], 0x1000)
	}
	binary.LittleEndian.PutUint32(b[0x3000:], 0x01110003)
	binary.LittleEndian.PutUint32(b[0x2000:], 0x01110001)
	binary.LittleEndian.PutUint32(b[0x2004:], uint32(len(s.tables)))
	for i, t := range s.tables {
		at := tablesAt + tableSize*i
		e := b[0x2008+18*i:]
		e[0], e[17] = 2, 1
		binary.LittleEndian.PutUint64(e[5:], uint64(at))
		binary.LittleEndian.PutUint32(e[13:], tableSize)
		copy(b[at:], t)
	}
	for _, p := range s.pointers {
		at := b[tablesAt+tableSize*p.table+p.offset:]
		binary.LittleEndian.PutUint64(at, uint64(valuesAt)+binary.LittleEndian.Uint64(at))
	}
	copy(b[valuesAt:], s.values)
	return b
}

// store is a .vmcx in the making.
type store struct {
	tables   [][]byte
	values   []byte
	pointers []struct{ table, offset int } // that count from where values begin
}

// add puts p and what is below it into a new table. parent and at name its parent's
// key; tables count from 1.
func (s *store) add(p pair, parent uint16, at uint32) {
	n := len(s.tables)
	s.tables = append(s.tables, nil)
	t := binary.LittleEndian.AppendUint16(nil, 2)
	t = binary.LittleEndian.AppendUint16(t, uint16(n+1))
	t = append(t, make([]byte, 6)...)
	key := func(kind, flags byte, name string, value []byte, parent uint16, at uint32) {
		t = append(t, kind, flags)
		t = binary.LittleEndian.AppendUint32(t, uint32(21+len(name)+1+len(value)))
		t = binary.LittleEndian.AppendUint16(t, parent)
		t = binary.LittleEndian.AppendUint32(t, at)
		t = append(t, make([]byte, 8)...)
		t = append(t, byte(len(name)+1))
		t = append(append(append(t, name...), 0), value...)
	}
	own := uint32(len(t))
	key(9, 0, p.name, make([]byte, 12), parent, at)
	key(1, 0, "", make([]byte, 8), 0, 0) // free
	for _, below := range p.below {
		switch v := below.value.(type) {
		case int64:
			key(3, 0, below.name, binary.LittleEndian.AppendUint64(nil, uint64(v)), uint16(n+1), own)
		case bool:
			key(8, 0, below.name, []byte{map[bool]byte{true: 1}[v], 0, 0, 0}, uint16(n+1), own)
		case string:
			var text []byte
			for _, u := range utf16.Encode([]rune(v)) {
				text = binary.LittleEndian.AppendUint16(text, u)
			}
			size := binary.LittleEndian.AppendUint32(nil, uint32(len(text)))
			if len(text) < 64 {
				key(6, 0, below.name, append(size, text...), uint16(n+1), own)
				continue
			}
			key(6, 1, below.name, binary.LittleEndian.AppendUint64(size, uint64(len(s.values))), uint16(n+1), own)
			s.pointers = append(s.pointers, struct{ table, offset int }{n, len(t) - 8})
			s.values = append(s.values, text...)
		}
	}
	s.tables[n] = bytes.Clone(t)
	for _, below := range p.below {
		if below.value == nil {
			s.add(below, uint16(n+1), own)
		}
	}
}
