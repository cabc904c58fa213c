package uploader

import (
	"context"

	"github.com/millrace-backup/millrace/flow/pace"
	"github.com/millrace-backup/millrace/vault/store"
)

// paced is a store that takes uploads no faster than the uploaders of the host may
// write together.
type paced struct {
	store.Store
	pace *pace.Pace
}

// Begin starts an upload.
func (p paced) Begin(ctx context.Context) (store.Upload, error) {
	up, err := store.Begin(ctx, p.Store)
	if err != nil {
		return nil, err
	}
	return &upload{Upload: up, ctx: ctx, pace: p.pace}, nil
}

type upload struct {
	store.Upload
	ctx  context.Context // of Begin: covers the writes
	pace *pace.Pace
}

func (u *upload) Write(b []byte) (int, error) {
	if err := u.pace.Wait(u.ctx, int64(len(b))); err != nil {
		return 0, err
	}
	return u.Upload.Write(b)
}
