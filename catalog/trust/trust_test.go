package trust

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

func TestPacksThatGo(t *testing.T) {
	st, err := dir.Create(filepath.Join(t.TempDir(), "vault"))
	if err != nil {
		t.Fatal(err)
	}
	key := func(n byte) catalog.PackKey { return catalog.PackKey{Job: id.Job{n % 2}, Pack: id.Object{n}} }
	for n := range byte(6) {
		if err := st.PutNew(t.Context(), vault.PackName(key(n).Job, key(n).Pack), 10, strings.NewReader("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	fact := func(f events.Fact) events.Record { return events.Record{Position: 9, Kind: f.Kind(), Fact: f} }
	retire := func(n byte) events.Record {
		return fact(events.PacksRetired{Packs: []events.PackName{{Job: key(n).Job, Pack: key(n).Pack}}})
	}
	withdraw := func(n byte) events.Record {
		return fact(events.ChunkWithdrawn{Job: key(n).Job, Pack: key(n).Pack, Chunks: []id.Chunk{{1}}})
	}
	p := New(st, id.Domain{1})
	if err := errors.Join(p.Heed(retire(0)), p.Heed(withdraw(1)), p.Heed(fact(events.PackStored{}))); err != nil {
		t.Fatalf("nothing is needed yet: %v", err)
	}
	p.Need()
	for n, want := range []error{ErrGone, ErrGone, nil, nil, nil, nil, ErrGone} {
		if err := p.Check(t.Context(), key(byte(n)), 10); !errors.Is(err, want) {
			t.Errorf("pack %d: %v, want %v", n, err, want)
		}
	}
	if err := p.Check(t.Context(), key(2), 11); !errors.Is(err, ErrGone) || !errors.Is(err, vault.ErrDamaged) {
		t.Errorf("too short: %v", err)
	}
	if err := p.Heed(retire(4)); !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "position 9") {
		t.Errorf("one that is needed is retired: %v", err)
	}
	if err := p.Own(key(8)); err != nil {
		t.Error(err)
	}
	if err := p.Heed(withdraw(8)); !errors.Is(err, ErrGone) {
		t.Errorf("one of its own is withdrawn: %v", err)
	}
	p.Done()
	if err := p.Heed(fact(events.DomainShredded{Domain: id.Domain{2}})); err != nil {
		t.Errorf("another domain is shredded: %v", err)
	}
	if err := p.Heed(fact(events.DomainShredded{Domain: id.Domain{1}, By: "ann"})); !errors.Is(err, ledger.ErrShredded) || !strings.Contains(err.Error(), "ann at position 9") {
		t.Errorf("the domain is shredded: %v", err)
	}
	if err := p.Heed(retire(5)); err != nil {
		t.Errorf("nothing is needed any more: %v", err)
	}
	// The next commit sees what the vault holds then.
	if err := st.Delete(t.Context(), vault.PackName(key(2).Job, key(2).Pack)); err != nil {
		t.Fatal(err)
	}
	p.Need()
	for n, want := range map[byte]error{2: ErrGone, 3: nil, 5: ErrGone} {
		if err := p.Check(t.Context(), key(n), 1); !errors.Is(err, want) {
			t.Errorf("pack %d: %v, want %v", n, err, want)
		}
	}
	if err := p.Own(key(8)); !errors.Is(err, ErrGone) {
		t.Error("an own pack that was withdrawn is used")
	}
}
