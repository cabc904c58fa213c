package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// entries are messages of several lengths, an empty one among them.
func entries() (out []string) {
	for n := range 12 {
		out = append(out, string(bytes.Repeat([]byte{byte(n)}, n*n%31)))
	}
	return out
}

// written is a journal file with these messages, and where each entry ends.
func written(t testing.TB, msgs []string) (file []byte, ends []int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	j, err := Open(path, func([]byte) error { t.Error("a new journal is not empty"); return nil })
	must(t, err)
	for _, m := range msgs {
		must(t, j.Append([]byte(m)))
		s, err := j.f.Stat()
		must(t, err)
		ends = append(ends, int(s.Size()))
	}
	must(t, j.Close())
	file, err = os.ReadFile(path)
	must(t, err)
	return file, ends
}

func replayed(t testing.TB, path string) (j *Journal, got []string, err error) {
	t.Helper()
	j, err = Open(path, func(m []byte) error { got = append(got, string(m)); return nil })
	return j, got, err
}

// TestJournalCutAnywhere: whatever a kill left of the last entry, all before it
// is replayed, nothing else, and what is appended then is found behind it.
func TestJournalCutAnywhere(t *testing.T) {
	msgs := entries()
	file, ends := written(t, msgs)
	path := filepath.Join(t.TempDir(), "journal")
	for cut := range len(file) + 1 {
		must(t, os.WriteFile(path, file[:cut], 0o600))
		j, got, err := replayed(t, path)
		must(t, err)
		whole := 0
		for whole < len(ends) && ends[whole] <= cut {
			whole++
		}
		if !slices.Equal(got, msgs[:whole]) {
			t.Fatalf("cut at %d: %d entries, want %d", cut, len(got), whole)
		}
		must(t, j.Append([]byte("more")))
		must(t, j.Close())
		j, got, err = replayed(t, path)
		must(t, err)
		must(t, j.Close())
		if !slices.Equal(got, append(slices.Clone(msgs[:whole]), "more")) {
			t.Fatalf("cut at %d: after appending: %q", cut, got)
		}
	}
}

// TestJournalFlippedAnywhere: an entry with a wrong bit is never replayed and
// never passed over, and the file stays as it is.
func TestJournalFlippedAnywhere(t *testing.T) {
	msgs := entries()
	file, ends := written(t, msgs)
	path := filepath.Join(t.TempDir(), "journal")
	for at := range file {
		for bit := range 8 {
			bad := bytes.Clone(file)
			bad[at] ^= 1 << bit
			must(t, os.WriteFile(path, bad, 0o600))
			_, got, err := replayed(t, path)
			whole, _ := slices.BinarySearch(ends, at+1)
			if !errors.Is(err, ErrDamaged) || !slices.Equal(got, msgs[:whole]) {
				t.Fatalf("byte %d, bit %d: %v; %d entries, want %d", at, bit, err, len(got), whole)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(after, bad) {
				t.Fatal("a damaged journal was changed")
			}
		}
	}
}

func TestJournalReplayFails(t *testing.T) {
	file, _ := written(t, entries())
	path := filepath.Join(t.TempDir(), "journal")
	must(t, os.WriteFile(path, file, 0o600))
	cause := errors.New("the message makes no sense")
	if _, err := Open(path, func([]byte) error { return cause }); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

func FuzzReplayJournal(f *testing.F) {
	file, _ := written(f, entries())
	f.Add(file)
	f.Add(file[:len(file)-3])
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var again bytes.Buffer
		whole, err := replayAll(bytes.NewReader(b), func(m []byte) error {
			j := Journal{}
			j.frame(m)
			again.Write(j.buf)
			return nil
		})
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
		// What was replayed is what is there, byte by byte.
		if whole != int64(again.Len()) || !bytes.HasPrefix(b, again.Bytes()) {
			t.Fatal(fmt.Errorf("%d bytes are whole, %d were replayed", whole, again.Len()))
		}
	})
}
