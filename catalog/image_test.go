package catalog

import (
	"bytes"
	"iter"
	"reflect"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// entries collects an image.
func entries(t testing.TB, s *State) (out [][]byte) {
	t.Helper()
	for b, err := range s.Image() {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// plain makes no difference between no points and none any more.
func plain(s *State) *State {
	for _, g := range s.Guests {
		if len(g.Points) == 0 {
			g.Points = nil
		}
	}
	return s
}

func listed(all [][]byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, b := range all {
			if !yield(b, nil) {
				return
			}
		}
	}
}

// decoded sends the history's facts over the wire, as a state read from a vault
// has them.
func decoded(t testing.TB, l *log) *log {
	t.Helper()
	out := &log{next: l.next}
	for _, r := range l.records {
		b, err := events.EncodeRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := events.DecodeRecord(b)
		if err != nil {
			t.Fatal(err)
		}
		again.Position = r.Position
		out.records = append(out.records, again)
	}
	return out
}

// At every position of a history, the image read back is the state, in all its
// parts and not only in those that the hash covers, and folds on like it.
func TestAnImageIsTheState(t *testing.T) {
	full := grouped()
	withConfig := point(id.Point{0x44, 0x44}, web, "web", day(6))
	withConfig.Config = []byte("<domain/>")
	for range table8 {
		withConfig.Disks[0].Extents = append(withConfig.Disks[0].Extents, events.TableRef{Name: id.Object{1}})
		withConfig.Disks[0].Chunks = append(withConfig.Disks[0].Chunks, events.TableRef{})
	}
	full.add(day(6), job2, withConfig)
	withConfig.Point, withConfig.Time = id.Point{0x55, 0x55}, withConfig.Time-1 // a clock that was set back
	full.add(day(6), job2, withConfig, events.JobFinished{Outcome: "done", Settings: map[string]string{"a": "b"}})
	l := decoded(t, full)
	for upTo := range l.next + 1 {
		s, rest := New(), New()
		for _, r := range l.records {
			if r.Position < upTo {
				if err := s.Apply(r); err != nil {
					t.Fatal(err)
				}
			}
		}
		image := entries(t, s)
		got, err := ReadImage(listed(image))
		if err != nil {
			t.Fatal(err)
		}
		if got.Hash() != s.Hash() || !reflect.DeepEqual(plain(got), plain(s)) {
			t.Fatalf("before position %d the image is another state:\n%+v\n%+v", upTo, got, s)
		}
		for n, b := range entries(t, got) {
			if !bytes.Equal(b, image[n]) {
				t.Fatalf("entry %d of the image of an image differs", n)
			}
		}
		for _, r := range l.records {
			if r.Position >= upTo {
				if err := got.Apply(r); err != nil {
					t.Fatal(err)
				}
			}
			if err := rest.Apply(r); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(plain(got), plain(rest)) {
			t.Fatalf("from the image before position %d the rest folds to something else", upTo)
		}
	}
}

const table8 = 7

func FuzzReadImage(f *testing.F) {
	s, err := Fold(decoded(f, grouped()).all())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Join(entries(f, s), nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = ReadImage(func(yield func([]byte, error) bool) {
			for len(b) > 0 {
				n, err := events.Walk(b)
				if err != nil {
					return
				}
				value, err := events.Walk(b[n:])
				if err != nil {
					value = len(b) - n
				}
				if !yield(b[:n+value], nil) {
					return
				}
				b = b[n+value:]
			}
		})
	})
}
