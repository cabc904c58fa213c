package open_test

import (
	"bytes"
	"testing"

	"github.com/millrace-backup/millrace/vdisk/open"
)

func FuzzProbe(f *testing.F) {
	f.Add([]byte("vhdxfile"))
	f.Add([]byte("conectix"))
	f.Add(append([]byte("conectix"), make([]byte, 503)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		format, err := open.Probe(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if format == "vhdx" && !bytes.HasPrefix(b, []byte("vhdxfile")) {
			t.Error("called VHDX without its signature")
		}
	})
}
