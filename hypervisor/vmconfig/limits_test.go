package vmconfig_test

import (
	"bytes"
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
	tables := min((size-0x4000)/64, 1<<14)
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

// keys is a configuration of one table with so many keys of 40 bytes, the values of which
// are all the same text.
func keys(n int) []byte {
	b := append(make([]byte, 0x4000, 0x4000+10+40*n+8192), 2, 0, 1, 0, 0, 0, 0, 0, 0, 0)
	copy(b, drivertest.VMCX(vmconfig.Machine{})[:0x2008])
	b[0x2004], b[0x2005] = 1, 0
	b[0x2008], b[0x2008+17] = 2, 1
	binary.LittleEndian.PutUint64(b[0x2008+5:], 0x4000)
	binary.LittleEndian.PutUint32(b[0x2008+13:], uint32(10+40*n))
	key := make([]byte, 40)
	key[0], key[1], key[2], key[20] = 6, 1, 40, 7
	binary.LittleEndian.PutUint32(key[28:], 8192)
	binary.LittleEndian.PutUint64(key[32:], uint64(len(b)+40*n))
	for range n {
		b = append(b, key...)
	}
	return append(b, bytes.Repeat([]byte{'x', 0}, 4096)...)
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
		{"keys", keys(1<<17 + 1), "more than 131072 keys"},
		{"keys that all have one long text", keys(60_000), "neither properties"},
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
