package vmconfig_test

import (
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/drivertest"
	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
)

// overlapping is a configuration of size bytes whose tables of one kind lie over each
// other: 1 of objects, 2 of keys. Each goes to the end of the file, and reading all of
// them one by one takes a minute for the largest size.
func overlapping(size int, kind byte) []byte {
	b := make([]byte, size)
	copy(b, drivertest.VMCX(vmconfig.Machine{})[:0x4000])
	tables := min((size-0x4000)/64, 1<<14-2)
	body := 0x2008 + 18*tables + 32
	binary.LittleEndian.PutUint32(b[0x2004:], uint32(tables))
	for i := range tables {
		at := (body + i*((size-body)/(2*tables))) &^ 31
		e := b[0x2008+18*i:]
		e[0], e[17] = kind, 1
		binary.LittleEndian.PutUint64(e[5:], uint64(at))
		binary.LittleEndian.PutUint32(e[13:], uint32(size-at))
		if kind == 1 {
			binary.LittleEndian.PutUint32(b[at:], 0x01110001)
			binary.LittleEndian.PutUint32(b[at+4:], uint32((size-at-8)/18))
			continue
		}
		binary.LittleEndian.PutUint16(b[at:], 2)
		binary.LittleEndian.PutUint16(b[at+2:], uint16(i+1))
	}
	if kind == 2 { // free keys of 32 bytes between what the tables begin with
		for at := body&^31 + 10; at+32 <= size; at += 32 {
			b[at] = 1
			binary.LittleEndian.PutUint32(b[at+2:], 32)
		}
	}
	return b
}

// No configuration, however it was made, costs more than a moment and 256 MiB.
func TestWhatIsHostile(t *testing.T) {
	for _, c := range []struct {
		what string
		b    []byte
		want string // of the error, which is ErrForm
	}{
		{"tables of keys over each other", overlapping(vmconfig.MaxSize, 2), "longer than the file"},
		{"tables of objects over each other", overlapping(vmconfig.MaxSize, 1), "longer than the file"},
		{"attributes", []byte("<configuration " + strings.Repeat(`a="" `, vmconfig.MaxSize/5-10) + "/>"), "attributes"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err := read(c.b)
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		used := after.TotalAlloc - before.TotalAlloc
		t.Logf("%s: %v, %d MiB allocated", c.what, took, used>>20)
		if !errors.Is(err, vmconfig.ErrForm) || !strings.Contains(err.Error(), c.want) || used > 256<<20 {
			t.Errorf("%s: %v, %d MiB allocated", c.what, err, used>>20)
		}
	}
}
