package open_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
)

func write(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSignatures(t *testing.T) {
	filler := bytes.Repeat([]byte{0xAA}, 4096)
	for _, c := range []struct {
		name   string
		b      []byte
		format string // option
		want   string // "" when it must fail
		err    error
	}{
		{"empty", nil, "", "raw", nil},
		{"one byte", []byte("v"), "", "raw", nil},
		{"short", []byte("vhdxfil"), "", "raw", nil},
		{"no signature", filler, "", "raw", nil},
		{"vhdx and nothing else", []byte("vhdxfile"), "", "", vdisk.ErrTruncated},
		{"vhdx that is told to be raw", []byte("vhdxfile"), "raw", "raw", nil},
		{"raw that is told to be vhdx", filler, "vhdx", "", vdisk.ErrFormat},
		{"qcow2 and nothing else", []byte("QFI\xfb\x00\x00\x00\x03"), "", "", vdisk.ErrTruncated},
		{"qcow", append([]byte("QFI\xfb\x00\x00\x00\x01"), filler...), "", "", vdisk.ErrUnsupported},
		{"raw that is told to be qcow2", filler, "qcow2", "", vdisk.ErrFormat},
		{"vmdk", []byte("KDMV"), "", "", vdisk.ErrUnsupported},
		{"dynamic vhd", append([]byte("conectix"), filler...), "", "", vdisk.ErrFormat},
		{"fixed vhd", append(bytes.Clone(filler), append([]byte("conectix"), make([]byte, 504)...)...), "", "", vdisk.ErrFormat},
		{"old fixed vhd", append(bytes.Clone(filler), append([]byte("conectix"), make([]byte, 503)...)...), "", "", vdisk.ErrFormat},
		{"raw that is told to be vhd", filler, "vhd", "", vdisk.ErrFormat},
		{"vhd that is told to be raw", append([]byte("conectix"), filler...), "raw", "raw", nil},
		{"unknown option", filler, "floppy", "", vdisk.ErrUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, c.b)
			d, err := open.Path(path, open.Options{Format: c.format})
			if !errors.Is(err, c.err) {
				t.Fatalf("%v, want %v", err, c.err)
			}
			if err != nil {
				if !strings.Contains(err.Error(), path) {
					t.Errorf("%q does not name the file", err)
				}
				return
			}
			defer d.Close()
			if d.Info().Format != c.want || d.Size() != int64(len(c.b)) || d.Info().VirtualSize != d.Size() {
				t.Errorf("info %+v, size %d", d.Info(), d.Size())
			}
		})
	}
}

func TestMissing(t *testing.T) {
	if _, err := open.Path(filepath.Join(t.TempDir(), "none"), open.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Names that promise what is not read here are refused where there is no
// signature; a name or an option that a signature contradicts is told.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name, content, format string
		err                   error
		says                  string
	}{
		{"disk.vmdk", "", "", vdisk.ErrUnsupported, "promises vmdk"},
		{"disk.VDI", "x", "", vdisk.ErrUnsupported, "promises vdi"},
		{"disk.qed", "x", "", vdisk.ErrUnsupported, "promises qed"},
		{"disk.vhds", "x", "", vdisk.ErrUnsupported, "shared VHD set"},
		{"disk.vdi", "x", "raw", nil, ""},
		{"disk.img", "x", "", nil, ""},
		{"disk", "QED\x00", "", vdisk.ErrUnsupported, "format qed; convert it"},
		{"disk.vhd", "vhdxfile" + strings.Repeat("\x00", 4096), "vhd", vdisk.ErrFormat, "its signature is that of vhdx"},
		{"disk.vhdx", "vhdxfile" + strings.Repeat("\x00", 1<<20), "vhdx", vdisk.ErrFormat, "another copy"},
	} {
		path := filepath.Join(dir, c.name)
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := open.Path(path, open.Options{Format: c.format})
		if !errors.Is(err, c.err) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %v about %q", c.name, err, c.err, c.says)
		}
		if err == nil {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
