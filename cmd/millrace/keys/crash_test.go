package keys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/audit/proof"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/ledger/genesis"
	"github.com/millrace-backup/millrace/ledger/keyring"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/rotation"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// errDead is what a dead process would have seen, if it saw anything.
var errDead = errors.New("the process was killed")

// mortal is a store whose process dies before it changes something once more than it may.
type mortal struct {
	store.Store
	left int // changes until then; -1: it does not die
	at   func(op, name string) error
}

func (m *mortal) may(op, name string) error {
	if m.at != nil {
		if err := m.at(op, name); err != nil {
			return err
		}
	}
	if m.left == 0 {
		return errDead
	}
	m.left--
	return nil
}

func (m *mortal) PutNew(ctx context.Context, name string, size int64, body io.Reader) error {
	if err := m.may("put", name); err != nil {
		return err
	}
	return m.Store.PutNew(ctx, name, size, body)
}

func (m *mortal) Delete(ctx context.Context, name string) error {
	if err := m.may("delete", name); err != nil {
		return err
	}
	return m.Store.Delete(ctx, name)
}

// TestMain gives the tests a folder of their own to work in, where password files are and
// what is remembered of vaults goes.
func TestMain(m *testing.M) { os.Exit(inFolder(m)) }

func inFolder(m *testing.M) int {
	folder, err := os.MkdirTemp("", "millrace-keys-")
	if err == nil {
		defer os.RemoveAll(folder)
		err = os.Chdir(folder)
	}
	for _, p := range []string{"first", "second"} {
		if err == nil {
			err = os.WriteFile(p, []byte(p+"\n"), 0o600)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// bed is a vault and somebody who changes its keys.
type bed struct {
	*testing.T
	st     *dir.Store
	folder string
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{T: t, folder: t.TempDir()}
	var err error
	b.st, err = dir.Create(b.folder)
	b.must(err)
	v, _, err := vault.Create(t.Context(), b.st, []byte("first"), vault.CreateOptions{KDF: quick()})
	b.must(err)
	l, err := ledger.Open(t.Context(), v, ledger.Options{Now: time.Now})
	b.must(err)
	_, err = genesis.Begin(t.Context(), v, l, "test")
	b.must(err)
	return b
}

func quick() vault.KDF {
	kdf := vault.DefaultKDF()
	kdf.Time, kdf.MemoryKiB, kdf.Threads = 1, 8<<10, 1
	return kdf
}

func (b *bed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// as opens the vault with the password in a file, for a process that dies.
func (b *bed) as(file string, m *mortal) (verb, *session.Vault, *bytes.Buffer) {
	b.Helper()
	var said bytes.Buffer
	app := session.New(nil, &said, &said)
	app.Settings.PasswordFile = file
	password, err := os.ReadFile(file)
	b.must(err)
	m.Store = b.st
	v, err := vault.Open(b.Context(), m, bytes.TrimSpace(password))
	b.must(err)
	l, err := ledger.Open(b.Context(), v, ledger.Options{Now: time.Now})
	b.must(err)
	app.KDF = quick()
	return verb{app}, &session.Vault{Vault: v, Ledger: l}, &said
}

func forever() *mortal { return &mortal{left: -1} }

// audit goes through the vault, with and without the password, and finds nothing.
func (b *bed) audit(when string) {
	b.Helper()
	v, err := vault.Open(b.Context(), b.st, []byte("first"))
	if err != nil {
		b.Fatalf("%s: %v", when, err)
	}
	for _, with := range []*vault.Vault{v, nil} {
		r, err := proof.Verify(b.Context(), proof.Options{Config: v.Config, Store: b.st, Vault: with})
		b.must(err)
		for _, f := range r.Findings {
			b.Errorf("%s: %s is %s: %v", when, f.Object, f.State, f.Err)
		}
	}
}

func (b *bed) keys(standing keyring.Standing) (out []keyring.Key) {
	b.Helper()
	a, v, _ := b.as("first", forever())
	keys, _, err := a.look(b.Context(), v)
	b.must(err)
	for _, k := range keys {
		if k.Standing == standing {
			out = append(out, k)
		}
	}
	return out
}

func (b *bed) key(kind string) string {
	b.Helper()
	for _, k := range b.keys(keyring.Opens) {
		if k.Kind == kind {
			return k.ID.String()
		}
	}
	b.Fatalf("no %s", kind)
	return ""
}

// Whatever a key command has done when it is killed: the vault opens, audit verify finds
// nothing, and the next key command leaves nothing of it.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	commands := map[string]func(context.Context, *bed, verb, *session.Vault) error{
		"add": func(ctx context.Context, _ *bed, a verb, v *session.Vault) error {
			_, err := a.addOne(ctx, v, false, "second", "two")
			return err
		},
		"add --recovery": func(ctx context.Context, _ *bed, a verb, v *session.Vault) error {
			_, err := a.addOne(ctx, v, true, "", "")
			return err
		},
		"remove": func(ctx context.Context, b *bed, a verb, v *session.Vault) error {
			_, err := a.take(ctx, v, b.key(vault.KindRecovery), true)
			return err
		},
		"rotate": func(ctx context.Context, _ *bed, a verb, v *session.Vault) error {
			return a.turn(ctx, v, choices{})
		},
	}
	for name, command := range commands {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			died := true
			for n := 0; died; n++ {
				b := newBed(t)
				a, v, _ := b.as("first", &mortal{left: n})
				err := command(t.Context(), b, a, v)
				if died = errors.Is(err, errDead); err != nil && !died {
					t.Fatalf("%d: %v", n, err)
				}
				when := fmt.Sprintf("killed after %d changes", n)
				b.audit(when)
				a, v, _ = b.as("first", forever())
				if _, _, err := a.settle(t.Context(), v); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				b.audit(when + ", and then settled")
				for _, s := range []keyring.Standing{keyring.Pending, keyring.Leaving, keyring.Missing, keyring.Foreign, keyring.Damaged} {
					for _, k := range b.keys(s) {
						t.Errorf("%s: standing %d: %+v", when, s, k)
					}
				}
				if err := a.turn(t.Context(), v, choices{force: true}); err != nil {
					t.Fatalf("%s: rotate: %v", when, err)
				}
				b.audit(when + ", and then rotated")
				for e, err := range b.st.List(t.Context(), rotation.Prefix) {
					t.Errorf("%s: %s, %v", when, e.Name, err)
				}
				if n > 40 {
					t.Fatal("it does not end")
				}
			}
		})
	}
}

// Of two who remove each other's key, the second is refused: his decision was made when
// there were two.
func TestTwoRemoveAtOnce(t *testing.T) {
	t.Parallel()
	for n := range 12 { // other changes of the second before the first comes in between
		b := newBed(t)
		password, recovery := b.key(vault.KindPassword), b.key(vault.KindRecovery)
		first, v1, _ := b.as("first", forever())
		m := &mortal{left: -1}
		second, v2, _ := b.as("first", m)
		left := n
		m.at = func(op, name string) error {
			if left--; left == -1 {
				_, err := first.take(t.Context(), v1, recovery, true)
				var one = strings.Contains(fmt.Sprint(err), "last key")
				if err != nil && !one {
					t.Errorf("%d: the other: %v", n, err)
				}
			}
			return nil
		}
		_, err := second.take(t.Context(), v2, password, true)
		if err != nil && !strings.Contains(err.Error(), "last key") {
			t.Errorf("%d: %v", n, err)
		}
		opens := 0
		for k, err := range vault.ReadKeys(t.Context(), b.st, v1.Config) {
			b.must(err)
			opens++
			_ = k
		}
		if opens == 0 || left < 0 && opens != 1 {
			t.Errorf("%d: %d keys are left", n, opens)
		}
	}
}

// What nobody says was added, or removed, the next key command tells and does not write
// down as anybody's doing. Who asks for it can have it removed.
func TestNothingIsLaundered(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	a, v, _ := b.as("first", forever())
	_, err := a.addOne(t.Context(), v, false, "second", "two")
	b.must(err)
	var second id.Key
	for _, k := range b.keys(keyring.Opens) {
		if k.Label == "two" {
			second = k.ID
		}
	}
	path := filepath.Join(b.folder, filepath.FromSlash(vault.KeyName(second)))
	text, err := os.ReadFile(path)
	b.must(err)

	// Removed, and put back.
	_, err = a.take(t.Context(), v, second.String(), false)
	b.must(err)
	b.must(os.WriteFile(path, text, 0o600))
	b.foreign(t, second, keyring.Foreign, "put back")

	// One that the vault's keys made, and no segment names.
	stray, err := v.PreparePassword([]byte("stray"), "stray", quick(), time.Now())
	b.must(err)
	b.must(v.AddKey(t.Context(), stray))
	b.foreign(t, stray.ID, keyring.Foreign, "nothing says that it was added")

	// One that is deleted.
	var gone id.Key
	b.must(gone.UnmarshalText([]byte(b.key(vault.KindRecovery))))
	_, err = a.addOne(t.Context(), v, true, "", "")
	b.must(err)
	b.must(b.st.Delete(t.Context(), vault.KeyName(gone)))
	b.foreign(t, gone, keyring.Missing, "nothing says that it was removed")

	// One that is damaged, and one whose bytes are those of another time.
	bad := b.key(vault.KindRecovery)
	path = filepath.Join(b.folder, "keys", bad)
	text, err = os.ReadFile(path)
	b.must(err)
	text[len(text)/2] ^= 1
	b.must(os.WriteFile(path, text, 0o600))
	var damaged id.Key
	b.must(damaged.UnmarshalText([]byte(bad)))
	b.foreign(t, damaged, keyring.Damaged, "keys/"+bad)
	b.audit("in the end")
}

// foreign makes sure that a key is told, and left as it is by other commands, and that
// remove takes it away.
func (b *bed) foreign(t *testing.T, k id.Key, want keyring.Standing, text string) {
	t.Helper()
	for range 2 {
		a, v, said := b.as("first", forever())
		keys, _, err := a.settle(t.Context(), v)
		b.must(err)
		at := slices.IndexFunc(keys, func(each keyring.Key) bool { return each.ID == k })
		if at < 0 || keys[at].Standing != want || !strings.Contains(said.String(), text) {
			t.Fatalf("%s is not told as %d: %s %+v", k, want, said, keys)
		}
		s, err := v.Now(t.Context())
		b.must(err)
		if _, known := s.Keys[k]; known != (want == keyring.Missing || want == keyring.Damaged) {
			t.Errorf("the ledger says of %s that it is in: %v", k, known)
		}
		r, err := proof.Verify(t.Context(), proof.Options{Config: v.Config, Store: b.st})
		b.must(err)
		if !slices.ContainsFunc(r.Findings, func(f proof.Finding) bool { return f.Object == vault.KeyName(k) }) {
			t.Errorf("audit verify does not find %s: %+v", k, r.Findings)
		}
		// Others work: one more key comes and goes.
		more, err := a.addOne(t.Context(), v, true, "", "")
		b.must(err)
		_, err = a.take(t.Context(), v, more.ID.String(), true)
		b.must(err)
	}
	a, v, _ := b.as("first", forever())
	_, err := a.take(t.Context(), v, k.String(), true)
	b.must(err)
	b.audit("without it")
}

// Of two who rotate at once, whoever is first, both end well or the second is told; what
// each has printed opens the newest keys, unless he was told.
func TestTwoRotateAtOnce(t *testing.T) {
	t.Parallel()
	for n := range 14 {
		b := newBed(t)
		first, v1, said1 := b.as("first", forever())
		m := &mortal{left: -1}
		second, v2, said2 := b.as("first", m)
		left := n
		m.at = func(op, name string) error {
			if left--; left == -1 {
				if err := first.turn(t.Context(), v1, choices{force: true}); err != nil && !errors.Is(err, vault.ErrRotated) {
					t.Errorf("%d: the other: %v", n, err)
				}
			}
			return nil
		}
		err := second.turn(t.Context(), v2, choices{force: true})
		if err != nil && !errors.Is(err, vault.ErrRotated) {
			t.Errorf("%d: %v", n, err)
		}
		b.audit(fmt.Sprintf("%d", n))
		newest := 0
		for k, err := range vault.ReadKeys(t.Context(), b.st, v1.Config) {
			b.must(err)
			newest = max(newest, k.Generation)
		}
		for _, said := range []string{said1.String(), said2.String()} {
			_, recovery, _ := strings.Cut(said, "recovery key  ")
			recovery, _, _ = strings.Cut(recovery, "\n")
			if !strings.Contains(said, "rotated for") {
				continue // he was told
			}
			v, err := vault.Open(t.Context(), b.st, []byte(recovery))
			if err != nil || v.Keys.Generation() != newest && newest == 1 {
				t.Errorf("%d: what was printed: %v", n, err)
			}
		}
		if v, err := vault.Open(t.Context(), b.st, []byte("first")); err != nil || v.Keys.Generation() != newest {
			t.Errorf("%d: the password: %v", n, err)
		}
	}
}

// A rotation that dies when it has reached one password and not the other leaves nobody
// behind: who has the other one goes on with it.
func TestAnotherGoesOnWithARotation(t *testing.T) {
	t.Parallel()
	stuck := 0
	for n := range 10 {
		b := newBed(t)
		a, v, _ := b.as("first", forever())
		_, err := a.addOne(t.Context(), v, false, "second", "two")
		b.must(err)
		a, v, _ = b.as("first", &mortal{left: n})
		if err := a.turn(t.Context(), v, choices{keep: []string{"second"}}); !errors.Is(err, errDead) {
			t.Fatalf("%d: %v", n, err)
		}
		a, v, _ = b.as("second", forever())
		_, first, _ := b.as("first", forever())
		if v.Keys.Generation() < first.Keys.Generation() {
			stuck++
			_, _, err := a.settle(t.Context(), v)
			b.must(err)
			if _, again, _ := b.as("first", forever()); again.Keys.Generation() < first.Keys.Generation() {
				t.Errorf("%d: what the rotation had reached was taken back", n)
			}
		}
		if err := a.turn(t.Context(), v, choices{keep: []string{"first"}}); err != nil {
			t.Fatalf("%d: the other: %v", n, err)
		}
		b.audit(fmt.Sprintf("%d", n))
		for _, p := range []string{"first", "second"} {
			if _, err := vault.Open(t.Context(), b.st, []byte(p)); err != nil {
				t.Errorf("%d: %s: %v", n, p, err)
			}
		}
	}
	if stuck == 0 {
		t.Error("at no time had one password new keys and the other old ones")
	}
}
