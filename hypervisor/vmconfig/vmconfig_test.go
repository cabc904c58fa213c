package vmconfig_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/hypervisor/drivertest"
	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
)

func web() vmconfig.Machine {
	return vmconfig.Machine{
		Name: "web & mail “1”", ID: "0aa394fa-7c4a-4070-ba32-773d43b28a68", Kind: "Virtual Machines", Generation: 2, Version: "9.0",
		Processors: 4, Memory: 4096, MemoryMin: 512, MemoryMax: 1 << 20, Dynamic: true,
		Disks: []vmconfig.Disk{
			{Controller: "IDE", Number: 0, Location: 1, Type: "VHD", Path: `C:\old\boot.vhd`},
			{Controller: "SCSI", Number: 0, Location: 0, Type: "VHD", Path: `C:\VMs\web\Virtual Hard Disks\web_2C0A3F0B-5E06-4B5E-9F0B-0D8B5F0C2A11.avhdx`},
			{Controller: "SCSI", Number: 0, Location: 3, Type: "PHYSICAL", Path: `\\?\disk`},
			{Controller: "SCSI", Number: 1, Location: 0, Type: "VHD", Path: `D:\data.vhdx`},
		},
	}
}

func read(b []byte) (vmconfig.Machine, error) {
	return vmconfig.Read(bytes.NewReader(b), int64(len(b)))
}

func TestBothForms(t *testing.T) {
	want := web()
	utf16 := drivertest.XML(want)
	var utf8 []byte
	for i := 2; i < len(utf16); i += 2 { // all of it is below U+0800 but the quotes
		utf8 = append(utf8, string(rune(binary.LittleEndian.Uint16(utf16[i:])))...)
	}
	big := bytes.Clone(utf16)
	for i := 0; i < len(big); i += 2 {
		big[i], big[i+1] = big[i+1], big[i]
	}
	for name, b := range map[string][]byte{"vmcx": drivertest.VMCX(want), "UTF-16": utf16, "UTF-8": utf8, "UTF-16, big-endian": big} {
		got, err := read(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\ngot  %+v\nwant %+v", name, err, got, want)
		}
	}
}

// A configuration of 2012 R2 as people have published them, shortened: empty drives,
// an optical one, a floppy.
const published = `<?xml version="1.0" encoding="UTF-8"?>
<configuration>
 <_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
  <VDEVVersion type="integer">1280</VDEVVersion>
  <controller1><drive0><pathname type="string"></pathname><type type="string">ISO</type></drive0><drive1><type type="string">NONE</type></drive1></controller1>
  <controller0><drive0><iops_limit type="integer">0</iops_limit><pathname type="string">C:\a\disk.vhd</pathname><type type="string">VHD</type></drive0></controller0>
 </_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
 <_8f0d2762-0b00-4e04-af4f-19010527cb93_><controller0><drive0><type type="string">VFD</type></drive0></controller0></_8f0d2762-0b00-4e04-af4f-19010527cb93_>
 <_ac6b8dc1-3257-4a70-b1b2-a9c9215659ad_><secure_boot_enabled type="bool">True</secure_boot_enabled></_ac6b8dc1-3257-4a70-b1b2-a9c9215659ad_>
 <manifest><size type="integer">0</size></manifest>
 <properties><name type="string">box</name><subtype type="integer">0</subtype><version type="integer">1280</version>
  <global_id type="string">0AA394FA-7C4A-4070-BA32-773D43B28A68</global_id></properties>
 <settings><memory><bank><dynamic_memory_enabled type="bool">False</dynamic_memory_enabled><limit type="integer">1048576</limit><size type="integer">1024</size></bank></memory>
  <processors><count type="integer">2</count></processors></settings>
</configuration>`

func TestPublished(t *testing.T) {
	got, err := read([]byte(published))
	want := vmconfig.Machine{Name: "box", ID: "0aa394fa-7c4a-4070-ba32-773d43b28a68", Generation: 1, Version: "5.0", Processors: 2, Memory: 1024, SecureBoot: true,
		Disks: []vmconfig.Disk{{Controller: "IDE", Type: "VHD", Path: `C:\a\disk.vhd`}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
}

func TestStore(t *testing.T) {
	good := drivertest.VMCX(web())
	for _, c := range []struct {
		what   string
		change func(b []byte) []byte
		want   error // nil: it is read
		remark string
	}{
		{"first header torn", func(b []byte) []byte { b[0]++; return b }, nil, ""},
		{"second header torn", func(b []byte) []byte { b[0x1000]++; return b }, nil, ""},
		{"both torn", func(b []byte) []byte { b[0]++; b[0x1000]++; return b }, vmconfig.ErrForm, ""},
		{"another version", func(b []byte) []byte { b[11]++; return b }, vmconfig.ErrUnsupported, ""},
		{"the older header has another version", func(b []byte) []byte { b[0x100B]++; return b }, nil, ""},
		{"changes in the log", func(b []byte) []byte { b[0x3008] = 3; return b }, nil, "3 changes in its log"},
		{"no log", func(b []byte) []byte { b[0x3000]++; return b }, nil, "log is not where"},
		{"no objects", func(b []byte) []byte { b[0x2000]++; return b }, vmconfig.ErrForm, ""},
		{"too many objects", func(b []byte) []byte { b[0x2007] = 0xFF; return b }, vmconfig.ErrForm, ""},
		{"a free object", func(b []byte) []byte { copy(b[0x2008+18*40:], bytes.Repeat([]byte{0xEE}, 17)); return b }, nil, ""},
		{"keys past the end", func(b []byte) []byte { b[0x2008+5+4] = 1; return b }, vmconfig.ErrForm, ""},
		{"no keys", func(b []byte) []byte { b[0x4000]++; return b }, vmconfig.ErrForm, ""},
		{"a key that is too long", func(b []byte) []byte { b[0x400A+3] = 0xFF; return b }, vmconfig.ErrForm, ""},
		{"a key without a parent", func(b []byte) []byte { b[0x500A+8]++; return b }, vmconfig.ErrForm, ""},
		{"its own parent", func(b []byte) []byte { b[0x400A+6] = 1; b[0x400A+8] = 10; return b }, vmconfig.ErrForm, ""},
		{"cut short", func(b []byte) []byte { return b[:0x5000] }, vmconfig.ErrForm, ""},
		{"too large", func(b []byte) []byte { return append(b, make([]byte, vmconfig.MaxSize)...) }, vmconfig.ErrForm, ""},
	} {
		got, err := read(c.change(bytes.Clone(good)))
		if !errors.Is(err, c.want) || c.want == nil && got.Name != web().Name {
			t.Errorf("%s: %+v, %v; want %v", c.what, got, err, c.want)
		}
		if !strings.Contains(strings.Join(got.Remarks, "; "), c.remark) {
			t.Errorf("%s: remarks %q", c.what, got.Remarks)
		}
	}
}

// Of several tables of an index the newest counts, wherever the others are.
func TestTheNewestTableCounts(t *testing.T) {
	const objects, properties = 0x2008, 0x5000
	good := drivertest.VMCX(vmconfig.Machine{Name: "good"})
	for _, c := range []struct {
		sequence byte
		want     string
	}{{6, "good"}, {8, "stay"}} {
		b := append(bytes.Clone(good), bytes.ReplaceAll(good[properties:properties+0x1000], []byte("g\x00o\x00o\x00d"), []byte("s\x00t\x00a\x00y"))...)
		b[properties+4], b[len(good)+4] = 7, c.sequence
		n := b[objects-4]
		b[objects-4]++
		e := b[objects+18*int(n):]
		copy(e, b[objects:objects+18])
		binary.LittleEndian.PutUint64(e[5:], uint64(len(good)))
		if m, err := read(b); err != nil || m.Name != c.want {
			t.Errorf("with another table of number %d: %q, %v", c.sequence, m.Name, err)
		}
	}
}

// Controllers count on over the devices that have them; of too many disks none is
// believed.
func TestControllersAndDisks(t *testing.T) {
	disk := func(path string) string {
		return `<drive0><pathname>` + path + `</pathname><type>VHD</type></drive0>`
	}
	device := func(n int) string {
		return fmt.Sprintf("<vdev%03d><device>%s</device><instance>%08d-9256-4f0d-be2c-000000000000</instance></vdev%03[1]d>", n, "d422512d-2bf2-4752-809d-7b82b5fcb1b4", n)
	}
	text := `<configuration><properties><name>x</name></properties><manifest>` + device(1) + device(2) + `</manifest>` +
		`<_00000001-9256-4f0d-be2c-000000000000_><controller0>` + disk("a") + `</controller0><controller2>` + disk("b") + `</controller2></_00000001-9256-4f0d-be2c-000000000000_>` +
		`<_00000002-9256-4f0d-be2c-000000000000_><controller0>` + disk("c") + `</controller0></_00000002-9256-4f0d-be2c-000000000000_></configuration>`
	m, err := read([]byte(text))
	var got []string
	for _, d := range m.Disks {
		got = append(got, d.Slot()+" "+d.Path)
	}
	if want := "SCSI 0:0 a, SCSI 2:0 b, SCSI 3:0 c"; err != nil || strings.Join(got, ", ") != want {
		t.Errorf("%q, %v", got, err)
	}
	for n, ok := range map[int]bool{512: true, 513: false} {
		m := vmconfig.Machine{Name: "x"}
		for i := range n {
			m.Disks = append(m.Disks, vmconfig.Disk{Controller: "SCSI", Number: i / 64, Location: i % 64, Type: "VHD", Path: "x"})
		}
		if got, err := read(drivertest.XML(m)); ok != (len(got.Disks) == n && err == nil) || !ok && !errors.Is(err, vmconfig.ErrForm) {
			t.Errorf("of %d disks %d, %v", n, len(got.Disks), err)
		}
	}
}

func TestWhatIsNone(t *testing.T) {
	for _, text := range []string{"", "abc", "hello there", "<a/>", "<configuration></configuration>", "<configuration><settings>",
		strings.Repeat("<a>", 40), "<?xml version='1.0' encoding='klingon'?><b/>"} {
		if m, err := read([]byte(text)); !errors.Is(err, vmconfig.ErrForm) {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
}

// FuzzRead takes anything for a configuration. What is read is fit to be shown and
// stored.
func FuzzRead(f *testing.F) {
	f.Add(drivertest.VMCX(web()))
	f.Add(drivertest.XML(web()))
	f.Add([]byte(published))
	f.Add(drivertest.VMCX(vmconfig.Machine{}))
	f.Add(overlapping(64<<10, 1))
	f.Add(overlapping(64<<10, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := read(b)
		if err != nil {
			if !errors.Is(err, vmconfig.ErrForm) && !errors.Is(err, vmconfig.ErrUnsupported) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		if len(m.Name) > 4096 || strings.ContainsAny(m.Name, "\x00\n\x1b") || len(m.Disks) > 512 || len(m.ID) != 0 && len(m.ID) != 36 {
			t.Errorf("%+v", m)
		}
	})
}
