package prove

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/audit/proof"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger"
)

func (a verb) verifyCommand() *cobra.Command {
	var without bool
	c := &cobra.Command{
		Use:   "verify",
		Short: "Prove that nothing in the vault was altered, with or without the password",
		Long: `Prove that every object of the vault is what the ledger says, and name each that is
not: damaged, missing, or explained by nothing.

No password is needed: clear headers of the ledger name every pack, table and key with
length and SHA-256, and a chain of signed checkpoints covers them. If the settings say
where the password is (nobody is asked for one), what is sealed is opened too: facts,
footers of packs, tables. What chunks say is read by verify --read-data.

The ledger is held against the checkpoint that this machine remembers, and against those
of the places given with --witness. With --accept-rollback, which needs the password,
a vault that is not the continuation of them is gone on with, and a fact says so.

Each object is read once. Exit code 4: something is wrong, and every finding is listed.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.verify(c.Context(), without) },
	}
	c.Flags().BoolVar(&without, "no-password", false, "use no password, even if the settings have one")
	return c
}

// findingJSON is one thing that is wrong, for scripts.
type findingJSON struct {
	Type   string       `json:"type"`
	Object string       `json:"object"`
	What   string       `json:"what"`
	State  string       `json:"state"`
	Cause  string       `json:"cause"`
	Job    string       `json:"job"` // that wrote it; empty: not known
	Points []neededJSON `json:"points"`
}

type neededJSON struct {
	Point id.Point `json:"point"`
	Guest string   `json:"guest_name"`
}

type countJSON struct {
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

type kindJSON struct {
	Kind string `json:"kind"`
	countJSON
}

// proofJSON is the last line but the error.
type proofJSON struct {
	Type        string         `json:"type"`
	Vault       id.Vault       `json:"vault"`
	Password    bool           `json:"password"` // what is sealed was opened too
	Findings    int            `json:"findings"`
	Objects     int64          `json:"objects"`
	Bytes       int64          `json:"bytes"`
	Kinds       []kindJSON     `json:"kinds"`
	Segments    uint64         `json:"segments"`
	Size        uint64         `json:"size"` // leaves of the ledger
	Root        string         `json:"root"`
	Checkpoint  uint64         `json:"checkpoint"`
	Tail        uint64         `json:"unsigned_segments"`
	Unproven    uint64         `json:"unproven_segments"`
	Running     countJSON      `json:"of_running_jobs"`
	LeftOver    countJSON      `json:"left_over"`
	Retired     countJSON      `json:"retired"`
	RunningJobs []id.Job       `json:"running_jobs"`
	Later       map[string]int `json:"unknown_facts"`
	Notes       []string       `json:"notes"`
	Duration    float64        `json:"duration_s"`
}

func (a verb) verify(ctx context.Context, without bool) error {
	if a.Settings.AcceptRollback {
		if without {
			return fault.Usage("--accept-rollback leaves a fact, which needs the password")
		}
		if _, err := a.OpenVault(ctx); err != nil {
			return err
		}
	}
	v, err := a.OpenClear(ctx, without)
	if err != nil {
		return err
	}
	start := a.Now()
	bar := a.Progress("audit vault")
	o := proof.Options{Config: v.Config, Store: v.Store, Vault: v.Vault, Workers: min(runtime.NumCPU(), 4), Progress: bar.At}
	for _, s := range v.Seen {
		o.Seen = append(o.Seen, proof.Seen{By: s.By, Checkpoint: s.Checkpoint})
	}
	r, err := proof.Verify(ctx, o)
	bar.Done()
	if err != nil {
		return fault.At("verify vault", v.Location, err)
	}
	if err := a.Shorter(v, r.Segments); err != nil {
		r.Findings = append(r.Findings, proof.Finding{Object: ledger.SegmentName(r.Segments), What: "the end of the ledger", State: proof.Rollback, Err: err})
	}
	if v.WrongKey != nil {
		r.Notes = append(r.Notes, "the password opens no key that is there: nothing sealed was opened")
	}
	took := a.Now().Sub(start).Seconds()
	if a.Settings.JSON {
		a.printProofJSON(v, r, took)
	} else {
		a.printProof(v, r, took)
	}
	if err := r.Err(); err != nil {
		// What is wrong has been listed; here is the first of the worst.
		return fault.At("verify vault", v.Location, first(r))
	}
	a.Witnessed(v, r.Signed)
	return v.WrongKey
}

// first is the finding to end with.
func first(r *proof.Result) error {
	for _, sentinel := range []error{ledger.ErrRollback, ledger.ErrForked} {
		for _, f := range r.Findings {
			if errors.Is(f.Err, sentinel) {
				return fmt.Errorf("%d findings: %s: %w", len(r.Findings)+r.More, f.Object, f.Err)
			}
		}
	}
	for _, f := range r.Findings {
		if f.State != proof.Newer {
			return fmt.Errorf("%d findings: %s: %w", len(r.Findings)+r.More, f.Object, f.Err)
		}
	}
	return r.Err()
}

func (a verb) printProofJSON(v *session.Clear, r *proof.Result, took float64) {
	for _, f := range r.Findings {
		j := findingJSON{Type: "finding", Object: f.Object, What: f.What, State: f.State, Cause: f.Err.Error(), Points: []neededJSON{}}
		if !f.Job.IsZero() {
			j.Job = f.Job.String()
		}
		for _, n := range f.Points {
			j.Points = append(j.Points, neededJSON{n.Point, n.Guest})
		}
		a.PrintJSON(j)
	}
	j := proofJSON{
		Type: "summary", Vault: v.Config.ID, Password: r.Password, Findings: len(r.Findings) + r.More, Kinds: []kindJSON{}, Segments: r.Segments, Size: r.Head.Size,
		Root: r.Head.Root.String(), Checkpoint: r.Signed.Size, Tail: r.Tail, Unproven: r.Unproven, Running: countJSON(r.Running), LeftOver: countJSON(r.LeftOver),
		Retired: countJSON(r.Retired), RunningJobs: append([]id.Job{}, r.RunningJobs...), Later: r.Later, Notes: append([]string{}, r.Notes...), Duration: took,
	}
	for _, k := range r.Kinds {
		j.Kinds = append(j.Kinds, kindJSON{k.Name, countJSON(k.Count)})
		j.Objects, j.Bytes = j.Objects+k.Objects, j.Bytes+k.Bytes
	}
	a.PrintJSON(j)
}

func (a verb) printProof(v *session.Clear, r *proof.Result, took float64) {
	say := func(format string, args ...any) { fmt.Fprintf(a.Stdout, format+"\n", args...) }
	for _, f := range r.Findings {
		say("%s: %s: %s", strings.ToUpper(f.State), session.Plain(f.Object), session.Plain(f.Err.Error()))
		text := "it is " + f.What
		if !f.Job.IsZero() {
			text += ", written by job " + f.Job.String()
		}
		say("  %s", text)
		for n, p := range f.Points {
			if n == 10 {
				say("  and by %d points more", len(f.Points)-n)
				break
			}
			say("  needed by point %s of %s", id.Short(p.Point), session.Plain(p.Guest))
		}
	}
	if r.More > 0 {
		say("and %d findings more", r.More)
	}
	var objects, bytes int64
	var kinds []string
	for _, k := range r.Kinds {
		objects, bytes = objects+k.Objects, bytes+k.Bytes
		kinds = append(kinds, fmt.Sprintf("%d %s", k.Objects, k.Name))
	}
	how := "without the password: what is sealed was not opened"
	if r.Password {
		how = "with the password"
	}
	say("vault %s, %s", v.Config.ID, how)
	say("read %s in %d objects (%s) in %.1f s", session.Size(bytes), objects, strings.Join(kinds, ", "), took)
	say("ledger of %d segments, %d leaves, root %s; newest checkpoint %d", r.Segments, r.Head.Size, r.Head.Root, r.Signed.Size)
	for _, line := range []struct {
		n    int64
		text string
	}{
		{int64(r.Tail), fmt.Sprintf("%d segments stand behind the newest checkpoint, and are signed by nobody yet", r.Tail)},
		{int64(r.Unproven), fmt.Sprintf("%d segments are reached by no signature, because others are damaged", r.Unproven)},
		{r.Running.Objects, fmt.Sprintf("%d objects (%s) are of jobs that run, and not named yet", r.Running.Objects, session.Size(r.Running.Bytes))},
		{r.LeftOver.Objects, fmt.Sprintf("%d objects (%s) were left by jobs that died, and named by nobody", r.LeftOver.Objects, session.Size(r.LeftOver.Bytes))},
		{r.Retired.Objects, fmt.Sprintf("%d objects (%s) are retired and not deleted yet", r.Retired.Objects, session.Size(r.Retired.Bytes))},
	} {
		if line.n > 0 {
			say("%s", line.text)
		}
	}
	for _, j := range r.RunningJobs {
		say("job %s has a heartbeat", j)
	}
	for _, kind := range laterKinds(r.Later) {
		a.Note("millrace: %s", kind)
	}
	for _, n := range r.Notes {
		say("note: %s", session.Plain(n))
	}
	if len(r.Findings) == 0 {
		say("nothing was altered")
	}
}

// laterKinds tells of facts that this version does not know.
func laterKinds(later map[string]int) (out []string) {
	for kind, n := range later {
		out = append(out, fmt.Sprintf("%d facts of kind %s are of a later version, kept and passed over", n, session.Plain(kind)))
	}
	slices.Sort(out)
	return out
}
