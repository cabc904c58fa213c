package paged_test

import (
	"errors"
	"testing"

	"github.com/millrace-backup/millrace/vdisk/paged"
)

func TestCache(t *testing.T) {
	broken := errors.New("broken")
	loads := map[int64]int{}
	c := paged.New(3, func(n int64) (int64, error) {
		loads[n]++
		if n == 7 && loads[n] == 1 {
			return 0, broken
		}
		return n * n, nil
	})
	for range 2 {
		for n := range int64(3) {
			if got, err := c.Get(n); got != n*n || err != nil || loads[n] != 1 {
				t.Errorf("page %d: %d, %v, loaded %d times", n, got, err, loads[n])
			}
		}
	}
	if _, err := c.Get(7); !errors.Is(err, broken) {
		t.Error(err)
	}
	if got, err := c.Get(1); got != 1 || err != nil || loads[1] != 1 {
		t.Errorf("an error took the slot of page 1: %d, %v, loaded %d times", got, err, loads[1])
	}
	if got, err := c.Get(7); got != 49 || err != nil {
		t.Errorf("an error was kept: %d, %v", got, err)
	}
	if _, err := c.Get(1); err != nil || loads[1] != 2 {
		t.Errorf("page 1 is still there beside page 7, which has its slot: loaded %d times", loads[1])
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = c.Get(2) }); n > 0 {
		t.Errorf("a hit allocates %v times", n)
	}
}
