package cutters

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/chunk"
)

// Two disks with the same runs of blocks at other places: single blocks find all of
// the second, cuts by content most, a fixed grid little; a disk of holes counts nothing.
func TestWhatIsFoundAgain(t *testing.T) {
	dir, rnd := t.TempDir(), rand.NewChaCha8([32]byte{1})
	files := make([][]byte, 16)
	for i := range files {
		files[i] = make([]byte, 500<<10)
		_, _ = rnd.Read(files[i])
	}
	disk := func(name string, gap int, order ...int) string {
		var b bytes.Buffer
		for _, n := range order {
			own := make([]byte, gap) // something of this disk alone between files
			_, _ = rnd.Read(own)
			b.Write(own)
			b.Write(files[n])
			b.Write(make([]byte, (4096-len(files[n])%4096)%4096))
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one := disk("one", 4096, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
	two := disk("two", 3*4096, 9, 3, 15, 0, 12, 6, 1, 14, 2, 8, 5, 11, 4, 10, 7, 13)
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Measure(t.Context(), []string{one, two, empty}, 2, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	share := map[string]float64{}
	for _, o := range r.Outcomes {
		share[o.Name] = o.OfMost
		if o.PerDisk[2] != 0 || o.Kept > o.Data || o.Name != single && o.MiBs.Median <= 0 {
			t.Errorf("%+v", o)
		}
	}
	if share[single] != 1 || share[chunk.Aligned] < 0.6 || share[chunk.FastCDC] < 0.6 || share[chunk.Fixed] > 0.3 {
		t.Errorf("found of what single blocks find: %v", share)
	}
	var out strings.Builder
	if err := r.Print(&out); err != nil || strings.Count(out.String(), "\n| ") != 1+len(names()) {
		t.Errorf("%v\n%s", err, out.String())
	}
}
