package fault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"testing"

	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
)

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want Fault
		exit int
	}{
		{"plain", errors.New("odd"), Fault{Code: "failed", Op: "run command", Err: errors.New("odd")}, 1},
		{"operation and object", At("open vault", "/v", fmt.Errorf("keys/1: %w", vault.ErrDamaged)),
			Fault{Code: "damaged", Op: "open vault", Object: "/v", Err: errors.New("keys/1: " + vault.ErrDamaged.Error())}, 4},
		{"the outermost operation, the innermost cause", At("restore", "p", At("read pack", "x", fs.ErrNotExist)),
			Fault{Code: "not-found", Op: "restore", Object: "p", Err: fs.ErrNotExist}, 1},
		{"a fork is damage, and is called by its name", ledger.ErrForked, Fault{Code: "forked", Op: "run command", Err: ledger.ErrForked}, 4},
		{"a code that was given stays", &Fault{Code: "guest-busy", Op: "lease", Object: "g", Err: fs.ErrExist},
			Fault{Code: "guest-busy", Op: "lease", Object: "g", Err: fs.ErrExist}, 11},
		{"an interrupt outdoes what it caused", Interrupted(At("read", "x", vault.ErrDamaged)),
			Fault{Code: "interrupted", Op: "read", Object: "x", Err: vault.ErrDamaged}, 130},
		{"the operation is not said twice", At("create vault", "/v", fmt.Errorf("create vault: %w", vault.ErrVaultExists)),
			Fault{Code: "vault-exists", Op: "create vault", Object: "/v", Err: vault.ErrVaultExists}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Of(c.err)
			if got.Code != c.want.Code || got.Op != c.want.Op || got.Object != c.want.Object || got.Cause() != c.want.Cause() || got.Exit() != c.exit {
				t.Errorf("got %s, %q %q %q, exit %d; want %s, %q %q %q, exit %d", got.Code, got.Op, got.Object, got.Cause(), got.Exit(),
					c.want.Code, c.want.Op, c.want.Object, c.want.Cause(), c.exit)
			}
			if got.Remedy == "" {
				t.Error("there is no remedy")
			}
		})
	}
}

// The operator's page lists every code with its exit code, and no other.
func TestErrorTableOfTheManual(t *testing.T) {
	page, err := os.ReadFile("../../../docs/operator.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| ([0-9]+) \\|").FindAllStringSubmatch(string(page), -1) {
		listed[row[1]] = row[2]
	}
	for _, k := range Kinds() {
		if listed[k.Code] != fmt.Sprint(k.Exit) {
			t.Errorf("code %s, exit %d: the manual says exit %q", k.Code, k.Exit, listed[k.Code])
		}
		delete(listed, k.Code)
	}
	for code := range listed {
		t.Errorf("the manual lists %s, which no error has", code)
	}
}
