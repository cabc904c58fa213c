package vdisktest_test

import (
	"math/rand/v2"
	"testing"

	"github.com/millrace-backup/millrace/vdisk/vdisktest"
)

func TestSparse(t *testing.T) {
	b := make([]byte, 3<<20+777)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		off := rnd.IntN(len(b) - 9000)
		for i := range rnd.IntN(9000) {
			b[off+i] = byte(rnd.Uint32())
		}
	}
	want := vdisktest.NewSparse(int64(len(b)))
	if _, err := want.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	vdisktest.Run(t, vdisktest.FromBytes(b), want)
}

func TestSparseHuge(t *testing.T) {
	s := vdisktest.NewSparse(64 << 40)
	if _, err := s.WriteAt([]byte("x"), 60<<40); err != nil {
		t.Fatal(err)
	}
	vdisktest.Run(t, s, s)
}
