package main

import (
	"bufio"
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/millrace-backup/millrace/catalog/chunkindex"
	"github.com/millrace-backup/millrace/catalog/spool"
	"github.com/millrace-backup/millrace/catalog/trust"
	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/cmd/millrace/drivers"
	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/runs"
	"github.com/millrace-backup/millrace/conductor/known"
	"github.com/millrace-backup/millrace/conductor/logfile"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/pipe"
	"github.com/millrace-backup/millrace/hypervisor/qemu"
	"github.com/millrace-backup/millrace/ledger/table"
	"github.com/millrace-backup/millrace/stages/chunker"
	"github.com/millrace-backup/millrace/stages/delta"
	"github.com/millrace-backup/millrace/stages/indexer"
	"github.com/millrace-backup/millrace/stages/reader"
	"github.com/millrace-backup/millrace/stages/seal"
	"github.com/millrace-backup/millrace/stages/snapshot"
	"github.com/millrace-backup/millrace/stages/uploader"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store/dir"
	"github.com/millrace-backup/millrace/vault/store/patient"
)

func (a *app) stageCommand() *cobra.Command {
	var folder string
	c := &cobra.Command{
		Use:    "stage NAME",
		Short:  "Run a worker of a job; the conductor starts these",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] == runs.StageName {
				return runs.Stage(c.Context(), a.App)
			}
			if !slices.Contains(flow.Stages(), args[0]) {
				return fault.Usage("there is no stage %q", args[0])
			}
			stop, err := profile(folder, args[0])
			if err != nil {
				return err
			}
			return errors.Join(a.stage(c.Context(), args[0]), stop())
		},
	}
	c.Flags().StringVar(&folder, "profile", "", "folder for a profile of processor time")
	return c
}

// guardCommand is what a frozen guest's driver starts: see qemu.Guard.
func (a *app) guardCommand() *cobra.Command {
	return &cobra.Command{
		Use: "guard", Short: "See that a guest goes on whatever becomes of its backup; the driver starts these", Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return fault.At("guard", "a guest", qemu.Guard(context.WithoutCancel(c.Context()), a.Stdin))
		},
	}
}

// stage is a worker's whole life: settings from the conductor, the flow, the work.
// A signal meant for the conductor's group does not end it: the conductor does.
func (a *app) stage(ctx context.Context, name string) error {
	ctx = context.WithoutCancel(ctx)
	control := bufio.NewReaderSize(a.Stdin, 64<<10)
	cfg, err := pipe.Read(control)
	if err != nil {
		return fault.At("start stage", name, err)
	}
	log, err := logfile.New("stderr")
	if err != nil {
		return fault.At("start stage", name, err)
	}
	log = log.With(zap.Stringer("job", cfg.Job), zap.String("stage", name), zap.Uint32("worker", cfg.Worker))
	w, err := flow.Connect(ctx, cfg, control)
	if err != nil {
		log.Error("connect", zap.Error(err))
		return fault.At("start stage", name, err)
	}
	log.Info("ready")
	err = runStage(ctx, w)
	if err != nil {
		log.Error("stage ends", zap.Error(err))
		w.Alarm(flow.AsFault(err, name))
	}
	if closeErr := w.Close(); closeErr != nil {
		log.Warn("leave the flow", zap.Error(closeErr))
	}
	return fault.At("run stage", name, err)
}

// runStage gives a stage what it needs, and only that.
func runStage(ctx context.Context, w *flow.Worker) error {
	work := &w.Config.Work
	var keys *vault.Keys
	if len(w.Config.Grant) > 0 {
		var err error
		if keys, err = vault.LoadGrant(w.Config.Grant); err != nil {
			return err
		}
	}
	switch w.Config.Stage {
	case flow.Snapshot:
		blocks, err := chunkBlocks(keys, work)
		if err != nil {
			return err
		}
		return snapshot.Run(ctx, w, func(g flow.WorkGuest) (snapshot.Driver, error) { return drivers.For(g, &w.Config) }, blocks)
	case flow.Reader:
		return reader.Run(ctx, w, func(ctx context.Context, d flow.WorkDisk) (reader.Image, error) {
			source, err := drivers.For(work.Guests[d.Guest], &w.Config)
			if err != nil {
				return nil, err
			}
			return source.Open(ctx, snapshot.DiskOf(d))
		})
	case flow.Chunker:
		key, err := keys.CutKey(work.Domain)
		if err != nil {
			return err
		}
		cutter, err := chunk.New(work.Cutter, key)
		if err != nil {
			return err
		}
		ids, err := chunkIDs(keys, work)
		if err != nil {
			return err
		}
		blocks, err := chunkBlocks(keys, work)
		if err != nil {
			return err
		}
		return chunker.Run(ctx, w, chunker.Tools{Cutter: cutter, IDs: ids, Blocks: blocks})
	case flow.Seal:
		codec, err := vault.NewCodec(work.Codec)
		if err != nil {
			return err
		}
		ids, err := chunkIDs(keys, work)
		if err != nil {
			return err
		}
		return seal.Run(ctx, w, keys, codec, ids)
	}
	return runVaultStage(ctx, w, keys)
}

// runVaultStage runs the stages that read or write the vault.
func runVaultStage(ctx context.Context, w *flow.Worker, keys *vault.Keys) error {
	work := &w.Config.Work
	p := &patient.Patience{IO: work.WaitIO, Gone: work.WaitGone, Tell: w.Waits}
	var place *dir.Store
	var cfg vault.Config
	open := func(ctx context.Context) (err error) {
		if place, err = dir.Open(work.Vault); err == nil {
			cfg, err = trust.SameVault(ctx, place, work.VaultID)
		}
		return err
	}
	p.Probe = open
	err := p.Do(ctx, func() error { return open(ctx) })
	if err == nil {
		err = place.Mark(ctx, vault.ConfigName)
	}
	if err != nil {
		return flow.VaultFault("open vault", work.Vault, err)
	}
	p.Probe = func(ctx context.Context) error { _, err := trust.SameVault(ctx, place, work.VaultID); return err }
	st := patient.Wrap(place, p)
	v := &vault.Vault{ID: cfg.ID, Config: cfg, Store: st, Keys: keys}
	if w.Config.Stage == flow.Uploader {
		return uploader.Run(ctx, w, st, keys, p)
	}
	// What was in the vault when the job began, what other jobs tell of while it
	// runs, and, for those who decide what is new, what it has stored itself.
	var folders []string
	for _, name := range []string{"index", known.OthersFolder, spool.StoredFolder} {
		folders = append(folders, filepath.Join(w.Config.Folder, name))
	}
	if w.Config.Stage == flow.Indexer {
		folders = folders[:2]
	}
	index, err := chunkindex.OpenFolders(folders...)
	if err != nil {
		return err
	}
	defer index.Close()
	if w.Config.Stage == flow.Indexer {
		return indexer.Run(ctx, w, v, index, p)
	}
	pages := table.NewPages() // of all disks together: they come one after the other
	return delta.Run(ctx, w, index, func(ctx context.Context, d flow.WorkDisk) (delta.Map, error) {
		return pages.OpenMap(ctx, v, *d.Parent)
	})
}

func chunkIDs(keys *vault.Keys, work *flow.Work) (*chunk.IDs, error) {
	key, err := keys.IDKey(work.Domain)
	if err != nil {
		return nil, err
	}
	return chunk.NewIDs(key), nil
}

func chunkBlocks(keys *vault.Keys, work *flow.Work) (*chunk.Blocks, error) {
	key, err := keys.IDKey(work.Domain)
	if err != nil {
		return nil, err
	}
	return chunk.NewBlocks(key, int(work.Cutter.Block))
}
