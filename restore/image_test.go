package restore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
	"github.com/millrace-backup/millrace/vdisk/qcow2"
	"github.com/millrace-backup/millrace/vdisk/vdisktest"
	"github.com/millrace-backup/millrace/vdisk/vhd"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
)

// Several workers write into an image in no order; what comes out is the disk.
func TestImages(t *testing.T) {
	f := newFixture(t, "auto")
	content := mixed()
	content = content[:len(content)/512*512]
	d := f.backup("disk", content)
	odd := f.backup("odd", content[:len(content)-100])
	for _, c := range []struct {
		format, variant string
		begin           func(f vdisk.File, d events.PointDisk) (Image, error)
	}{
		{"vhd", "dynamic", func(f vdisk.File, d events.PointDisk) (Image, error) {
			return vhd.NewWriter(f, d.Size, vhd.CreateOptions{})
		}},
		{"vhd", "fixed", func(f vdisk.File, d events.PointDisk) (Image, error) {
			return vhd.NewWriter(f, d.Size, vhd.CreateOptions{Fixed: true})
		}},
		{"vhdx", "dynamic", func(f vdisk.File, d events.PointDisk) (Image, error) {
			return create.NewWriter(f, d.Size, create.Options{})
		}},
		{"qcow2", "", func(f vdisk.File, d events.PointDisk) (Image, error) {
			return qcow2.NewWriter(f, d.Size, qcow2.CreateOptions{})
		}},
	} {
		t.Run(c.format+c.variant, func(t *testing.T) {
			folder := t.TempDir()
			path := filepath.Join(folder, "out")
			must(t, Raw(t.Context(), f.v, d, path, RawOptions{Image: c.begin}))
			onlyFile(t, folder, "out")
			m, err := open.Path(path, open.Options{})
			must(t, err)
			defer m.Close()
			if i := m.Info(); i.Format != c.format || i.Variant != c.variant || i.VirtualSize != int64(len(content)) {
				t.Errorf("info %+v", i)
			}
			must(t, vdisktest.Equal(m, vdisktest.FromBytes(content), 0, m.Size()))

			err = Raw(t.Context(), f.v, odd, filepath.Join(folder, "odd"), RawOptions{Image: c.begin})
			if !errors.Is(err, ErrForm) || errors.Is(err, vdisk.ErrUnsupported) {
				t.Errorf("a disk that is no multiple of 512 bytes: %v", err)
			}
			onlyFile(t, folder, "out")
		})
	}
}

// An image that cannot be ended leaves nothing, and what was there stays.
func TestImageThatFails(t *testing.T) {
	f := newFixture(t, "auto")
	d := f.backup("disk", mixed())
	folder := t.TempDir()
	path := filepath.Join(folder, "out")
	must(t, os.WriteFile(path, []byte("precious"), 0o600))
	broken := errors.New("broken")
	err := Raw(t.Context(), f.v, d, path, RawOptions{Force: true, Image: func(f vdisk.File, _ events.PointDisk) (Image, error) { return unfinished{f, broken}, nil }})
	if !errors.Is(err, broken) {
		t.Error(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "precious" {
		t.Errorf("the file holds %d other bytes", len(got))
	}
	onlyFile(t, folder, "out")
}

type unfinished struct {
	vdisk.File
	err error
}

func (u unfinished) Finish() error { return u.err }
