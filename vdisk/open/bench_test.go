package open_test

import (
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
	"github.com/millrace-backup/millrace/vdisk/qcow2"
	"github.com/millrace-backup/millrace/vdisk/vhd"
	"github.com/millrace-backup/millrace/vdisk/vhdx/create"
)

// writer is an image that is being written.
type writer interface {
	io.WriterAt
	Finish() error
}

// flat is a raw image as a writer.
type flat struct{ *os.File }

func (flat) Finish() error { return nil }

// BenchmarkSequential writes the same 256 MiB, full of data, as an image of each
// format, and reads them from front to back in pieces of 1 MiB, out of the page
// cache: what a format costs beside raw.
func BenchmarkSequential(b *testing.B) {
	const size, piece = 256 << 20, 1 << 20
	data := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data) // never fails
	for _, c := range []struct {
		name  string
		begin func(f *os.File) (writer, error)
	}{
		{"raw", func(f *os.File) (writer, error) { return flat{f}, nil }},
		{"vhd-fixed", func(f *os.File) (writer, error) { return vhd.NewWriter(f, size, vhd.CreateOptions{Fixed: true}) }},
		{"vhd", func(f *os.File) (writer, error) { return vhd.NewWriter(f, size, vhd.CreateOptions{}) }},
		{"vhdx", func(f *os.File) (writer, error) { return create.NewWriter(f, size, create.Options{}) }},
		{"qcow2", func(f *os.File) (writer, error) { return qcow2.NewWriter(f, size, qcow2.CreateOptions{}) }},
	} {
		path := filepath.Join(b.TempDir(), "disk")
		write := func() error {
			f, err := os.Create(path)
			if err != nil {
				return err
			}
			defer f.Close()
			w, err := c.begin(f)
			for off := 0; err == nil && off < size; off += piece {
				_, err = w.WriteAt(data[off%len(data):][:piece], int64(off))
			}
			if err == nil {
				err = w.Finish()
			}
			return err
		}
		b.Run("write/"+c.name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				if err := write(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("read/"+c.name, func(b *testing.B) {
			if err := write(); err != nil {
				b.Fatal(err)
			}
			d, err := open.Path(path, open.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			if d.Size() != size {
				b.Fatal(d.Info())
			}
			p := make([]byte, piece)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				for off := int64(0); off < size; off += piece {
					if n, _ := d.ReadAt(p, off); n < piece {
						b.Fatal("short read")
					}
				}
			}
		})
		b.Run("map/"+c.name, func(b *testing.B) {
			d, err := open.Path(path, open.Options{})
			if err != nil {
				b.Skip(err)
			}
			defer d.Close()
			b.ReportAllocs()
			for b.Loop() {
				for e, err := range d.Extents(b.Context(), 0, size) {
					if err != nil || e.Kind != vdisk.Data {
						b.Fatal(e, err)
					}
				}
			}
		})
	}
}
