package restore

import (
	"path/filepath"
	"testing"
)

// BenchmarkRaw restores 256 MiB, half of it text and half noise, into a file.
func BenchmarkRaw(b *testing.B) {
	f := newFixture(b, "auto")
	f.limit = 512
	content := make([]byte, 0, 256*mib)
	for i := range uint64(32) {
		content = append(append(content, text(i, 4*mib)...), noise(i, 4*mib)...)
	}
	d := f.backup("disk", content)
	path := filepath.Join(b.TempDir(), "out.raw")
	b.SetBytes(d.Size)
	b.ReportAllocs()
	for b.Loop() {
		if err := Raw(b.Context(), f.v, d, path, RawOptions{Force: true}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerify follows and reads every reference of the same.
func BenchmarkVerify(b *testing.B) {
	f := newFixture(b, "auto")
	f.limit = 512
	content := make([]byte, 0, 256*mib)
	for i := range uint64(32) {
		content = append(append(content, text(i, 4*mib)...), noise(i, 4*mib)...)
	}
	p := f.point(f.backup("disk", content))
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if _, err := Verify(b.Context(), f.v, p, Options{ReadPercent: 100}); err != nil {
			b.Fatal(err)
		}
	}
}
