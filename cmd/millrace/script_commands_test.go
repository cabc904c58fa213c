package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/millrace-backup/millrace/audit/exact"
	"github.com/millrace-backup/millrace/bench/workload"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
)

// scriptCommands are the words that scripts have besides testscript's own.
func scriptCommands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"exits":     exits,
		"json":      hasJSON,
		"flip":      flip,
		"random":    random,
		"scatter":   scatter,
		"newest":    newest,
		"cutnewest": cutNewest,
		"damagekey": damageKey,
		"point":     point,
		"vhdx":      vhdx,

		"checkpoint":  checkpoint,
		"size":        sizeOf,
		"hyperv":      hyperv,
		"sametree":    sameTree,
		"shows":       shows,
		"guestwrites": guestWrites,
		"atmost":      atMost,
		"cut":         cut,
	}
}

// exits N PROGRAM [ARGS]: runs it and wants exit code N; stdout and stderr are
// then what testscript's own words look at.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits N program [args]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("run %s: %v", args[1], err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
	if args[1] == "millrace" && len(args) > 2 && args[2] == "backup" {
		accountsForAll(ts)
	}
}

// accountsForAll makes sure that every job so far accounted for every byte of disk
// exactly once. A vault that the script has damaged, or that is elsewhere, says nothing.
func accountsForAll(ts *testscript.TestScript) {
	ctx := context.Background()
	st, err := dir.Open(ts.MkAbs(ts.Getenv("MILLRACE_VAULT")))
	if err != nil {
		return
	}
	v, err := vault.Open(ctx, st, []byte("correct horse"))
	if err != nil {
		return
	}
	l, err := ledger.Open(ctx, v, ledger.Options{Now: time.Now})
	if err != nil {
		return
	}
	if err := exact.Check(l.Records(ctx, 0)); errors.Is(err, exact.ErrInexact) {
		ts.Fatalf("%v", err)
	}
}

// json KEY=VALUE...: the last line of stdout is a JSON object with these members;
// KEY alone wants the member to be there and not empty.
func hasJSON(ts *testscript.TestScript, neg bool, args []string) {
	got := lastObject(ts)
	for _, arg := range args {
		key, want, exact := strings.Cut(arg, "=")
		value, isText := got[key].(string)
		if !isText {
			text, err := json.Marshal(got[key])
			ts.Check(err)
			value = string(text)
		}
		empty := value == "" || value == "null" || value == "[]"
		if ok := exact && value == want || !exact && !empty; ok == neg {
			ts.Fatalf("member %s is %q, want %q, in %v", key, value, want, got)
		}
	}
}

// lastObject is the JSON object in the last line of stdout.
func lastObject(ts *testscript.TestScript) (got map[string]any) {
	lines := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
		ts.Fatalf("%v in %s", err, lines[len(lines)-1])
	}
	return got
}

// flip GLOB: changes one bit in the middle of the largest file that matches.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	name := largest(ts, args)
	text, err := os.ReadFile(name)
	ts.Check(err)
	text[len(text)/2] ^= 1
	ts.Check(os.WriteFile(name, text, 0o600))
}

// newest GLOB removes the newest file by name that matches: what a vault set
// back to an earlier state lacks.
func newest(ts *testscript.TestScript, neg bool, args []string) {
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(names) == 0 {
		ts.Fatalf("nothing matches %s", args[0])
	}
	ts.Check(os.Remove(names[len(names)-1]))
}

// cutnewest GLOB cuts the newest file by name that matches to half its length.
func cutNewest(ts *testscript.TestScript, neg bool, args []string) {
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(names) == 0 {
		ts.Fatalf("nothing matches %s", args[0])
	}
	info, err := os.Stat(names[len(names)-1])
	ts.Check(err)
	ts.Check(os.Truncate(names[len(names)-1], info.Size()/2))
}

// damagekey KIND changes a letter of what the keys of this kind have wrapped.
func damageKey(ts *testscript.TestScript, neg bool, args []string) {
	names, err := filepath.Glob(filepath.Join(ts.Getenv("MILLRACE_VAULT"), "keys", "*"))
	ts.Check(err)
	done := 0
	for _, name := range names {
		text, err := os.ReadFile(name)
		ts.Check(err)
		at := strings.Index(string(text), `"wrapped":`)
		if at < 0 || !strings.Contains(string(text), `"`+args[0]+`"`) {
			continue
		}
		at += len(`"wrapped": "`) + 40
		if text[at] == 'A' {
			text[at] = 'B'
		} else {
			text[at] = 'A'
		}
		ts.Check(os.WriteFile(name, text, 0o600))
		done++
	}
	if done == 0 {
		ts.Fatalf("no key of kind %s among %v", args[0], names)
	}
}

func largest(ts *testscript.TestScript, args []string) (name string) {
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	var size int64 = -1
	for _, n := range names {
		info, err := os.Stat(n)
		ts.Check(err)
		if info.Mode().IsRegular() && info.Size() > size {
			name, size = n, info.Size()
		}
	}
	if name == "" {
		ts.Fatalf("nothing matches %s", args[0])
	}
	return name
}

// random FILE BYTES SEED: makes an image of random bytes.
func random(ts *testscript.TestScript, neg bool, args []string) {
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	seed, err := strconv.ParseUint(args[2], 10, 64)
	ts.Check(err)
	ts.Check(workload.Random(ts.MkAbs(args[0]), size, seed))
}

// scatter FILE RATIO SEED: changes single blocks of an image.
func scatter(ts *testscript.TestScript, neg bool, args []string) {
	ratio, err := strconv.ParseFloat(args[1], 64)
	ts.Check(err)
	seed, err := strconv.ParseUint(args[2], 10, 64)
	ts.Check(err)
	_, err = workload.Scatter(ts.MkAbs(args[0]), ratio, seed)
	ts.Check(err)
}

// size FOLDER LEAST MOST: the files below the folder have so many bytes together.
func sizeOf(ts *testscript.TestScript, neg bool, args []string) {
	var total int64
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	}))
	least, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	most, err := strconv.ParseInt(args[2], 10, 64)
	ts.Check(err)
	if (total < least || total > most) != neg {
		ts.Fatalf("%s has %d bytes, want %d to %d", args[0], total, least, most)
	}
}
