package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/millrace-backup/millrace/bench/gauge"
)

// place is a Millrace with a vault.
type place struct {
	program, folder string
	env             []string
}

func (p place) vault() string { return filepath.Join(p.folder, "vault") }

func (p place) run(ctx context.Context, args ...string) ([]byte, gauge.Cost, error) {
	return gauge.Run(ctx, p.folder, p.env, append([]string{p.program}, args...))
}

// job is what there is to know of a backup.
type job struct {
	Point   string  `json:"point"`
	Mode    string  `json:"mode"`
	Why     string  `json:"why"`
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu_s"`
	QEMU    float64 `json:"qemu_cpu_s"`    // of QEMU meanwhile
	Changed int64   `json:"changed_bytes"` // by the guest, in whole blocks of 4 KiB
	Dirty   int64   `json:"dirty_bytes"`   // as the tracker reports them
	Read    int64   `json:"read_bytes"`
	Sampled int64   `json:"sampled_bytes"`
	Grown   int64   `json:"vault_grew_by"` // packs, tables, ledger and checkpoints
	Frozen  float64 `json:"frozen_ms"`
}

// backup backs up a machine and says what came of it.
func (p place) backup(ctx context.Context, m *machine, flags ...string) (job, error) {
	before, err := size(p.vault())
	if err != nil {
		return job{}, err
	}
	busy := m.cpu()
	out, cost, err := p.run(ctx, append(append([]string{"backup", "--json", "--quiet"}, flags...), "qemu:"+m.socket)...)
	if err != nil {
		return job{}, err
	}
	s, err := gauge.ParseSummary(out)
	if err != nil {
		return job{}, err
	}
	after, err := size(p.vault())
	if err != nil {
		return job{}, err
	}
	j := job{Point: s.Points[0], Seconds: cost.Seconds, CPU: cost.CPU, QEMU: m.cpu() - busy, Grown: after - before}
	return j, p.ask(ctx, s.Job, &j)
}

// ask adds what the facts of a job say, of all disks together.
func (p place) ask(ctx context.Context, name string, j *job) error {
	out, _, err := p.run(ctx, "audit", "show", name, "--json")
	if err != nil {
		return err
	}
	var account struct {
		Facts []struct {
			Type    string
			Mode    string
			Reason  string
			Read    int64 `json:"read_bytes"`
			Dirty   int64 `json:"dirty_bytes"`
			Sampled int64 `json:"sampled_bytes"`
			Freeze  int64 `json:"freeze_ns"`
		}
	}
	if err := json.Unmarshal(out, &account); err != nil {
		return fmt.Errorf("read the account of a job: %w", err)
	}
	for _, f := range account.Facts {
		switch f.Type {
		case "SnapshotTaken":
			j.Frozen = float64(f.Freeze) / 1e6
		case "ChangesResolved":
			j.Mode, j.Why = f.Mode, f.Reason
			j.Read, j.Dirty, j.Sampled = j.Read+f.Read, j.Dirty+f.Dirty, j.Sampled+f.Sampled
		}
	}
	if j.Mode == "" {
		return errors.New("the account of a job has no plan")
	}
	return nil
}

// size is how many bytes the files below a folder have.
func size(folder string) (total int64, err error) {
	err = filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
