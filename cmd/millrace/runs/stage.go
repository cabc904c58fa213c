package runs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/millrace-backup/millrace/catalog/trust"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/logfile"
	"github.com/millrace-backup/millrace/conductor/runs"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/stages/rundirect"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
	"github.com/millrace-backup/millrace/vault/store/patient"
	"go.uber.org/zap"
)

// StageName is what stage is called with.
const StageName = "rundirect"

// readLine reads a line of JSON of a bounded length.
func readLine(r *bufio.Reader, out any) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if line = append(line, part...); len(line) > runs.MaxSettings {
			return fmt.Errorf("settings of more than %d bytes", runs.MaxSettings)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read settings: %w", err)
		}
		return json.Unmarshal(line, out)
	}
}

// Stage is the whole life of the process that serves the disks of a run: settings through its
// standard input, whose end is its own.
func Stage(ctx context.Context, a *session.App) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // a signal to our group is the supervisor's
	defer cancel()
	in := bufio.NewReader(a.Stdin)
	var s runs.Settings
	if err := readLine(in, &s); err != nil {
		return fault.At("start stage", StageName, err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	log, err := logfile.New("stderr")
	if err != nil {
		return err
	}
	log = log.With(zap.Stringer("run", s.Work.Run), zap.String("stage", StageName))
	v, err := openVault(ctx, s, log)
	if err == nil {
		log.Info("ready")
		err = rundirect.Serve(ctx, v, s.Work, func() error { return runs.TellServing(a.Stdout) }, func(c rundirect.Counts) { runs.TellCounts(a.Stdout, c) })
	}
	if err != nil {
		log.Error("stage ends", zap.Error(err))
	}
	return fault.At("serve run", id.Short(s.Work.Run), err)
}

// openVault opens the vault with the keys of the grant. One that goes away is waited for.
func openVault(ctx context.Context, s runs.Settings, log *zap.Logger) (*vault.Vault, error) {
	keys, err := vault.LoadGrant(s.Grant)
	if err != nil {
		return nil, err
	}
	p := &patient.Patience{Tell: func(what string) {
		if what != "" {
			log.Warn("the vault is waited for", zap.String("vault", what))
		}
	}}
	var place *dir.Store
	var cfg vault.Config
	p.Probe = func(ctx context.Context) (err error) {
		if place, err = dir.Open(s.Vault); err == nil {
			cfg, err = trust.SameVault(ctx, place, s.VaultID)
		}
		return err
	}
	err = p.Do(ctx, func() error { return p.Probe(ctx) })
	if err == nil {
		err = place.Mark(ctx, vault.ConfigName)
	}
	if err != nil {
		return nil, err
	}
	opened := place
	p.Probe = func(ctx context.Context) error { _, err := trust.SameVault(ctx, opened, s.VaultID); return err }
	return &vault.Vault{ID: cfg.ID, Config: cfg, Store: patient.Wrap(opened, p), Keys: keys}, nil
}

// order is what the supervisor is given through its standard input.
type order struct {
	Folder string `json:"folder"` // state
	Run    string `json:"run"`
	Grant  []byte `json:"grant"`
}

// told is what the supervisor says once.
type told struct {
	Ready bool     `json:"ready"`
	Notes []string `json:"notes"`
	Error string   `json:"error"`
}

// supervise is the whole life of a supervisor. Its command line has ended when it is still
// there, so it leaves the session, and what it has to say goes into its log.
func supervise(ctx context.Context, a *session.App, command []string) error {
	var o order
	if err := readLine(bufio.NewReader(a.Stdin), &o); err != nil {
		return fault.At("supervise", "a run", err)
	}
	r, err := runs.Find(o.Folder, o.Run)
	if err != nil {
		return fault.At("supervise run", o.Run, err)
	}
	log, err := logfile.New(filepath.Join(r.Folder(), "supervisor.log"))
	if err != nil {
		return err
	}
	tell := json.NewEncoder(a.Stdout)
	err = runs.Supervise(context.WithoutCancel(ctx), runs.Supervisor{Run: r, Grant: o.Grant, Command: command, Log: log, Ready: func(notes []string) {
		_ = tell.Encode(told{Ready: true, Notes: notes})
	}})
	if err != nil {
		log.Error("the supervisor ends", zap.Error(err))
		_ = tell.Encode(told{Error: err.Error()})
	}
	return fault.At("supervise run", id.Short(r.ID), err)
}
