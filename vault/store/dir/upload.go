package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/millrace-backup/millrace/vault/store"
)

// upload is one temp file. Bytes gather in buf until a piece is full.
type upload struct {
	s    *Store
	ctx  context.Context // of Begin: covers the writes
	temp string
	f    File
	buf  *[]byte
	n    int // bytes in buf
	err  error
	over bool
}

// Begin is store.Streamer's.
func (s *Store) Begin(ctx context.Context) (store.Upload, error) {
	u, err := s.begin(ctx)
	if err != nil {
		return nil, s.fault("begin", "upload", err)
	}
	return u, nil
}

func (s *Store) begin(ctx context.Context) (*upload, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.here(); err != nil {
		return nil, err
	}
	folder := filepath.Join(s.root, store.Reserved)
	var word [16]byte
	_, _ = rand.Read(word[:]) // never fails since Go 1.24
	temp := filepath.Join(folder, fmt.Sprintf("%x", word))
	f, err := s.fs.Create(temp)
	if errors.Is(err, fs.ErrNotExist) {
		// The temp folder's name need not be durable: what is in it is not.
		if err := s.fs.Mkdir(folder); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		f, err = s.fs.Create(temp)
	}
	if err != nil {
		return nil, err
	}
	return &upload{s: s, ctx: ctx, temp: temp, f: f, buf: s.pieces.Get().(*[]byte)}, nil
}

// Write gathers p into pieces. An error stays: the file is no longer what was
// written to it.
func (u *upload) Write(p []byte) (int, error) {
	if u.over {
		return 0, fmt.Errorf("write to upload in %s: it is over: %w", u.s.root, fs.ErrClosed)
	}
	done := 0
	for done < len(p) && u.err == nil {
		k := copy((*u.buf)[u.n:], p[done:])
		done, u.n = done+k, u.n+k
		if u.n == piece {
			u.flush(u.ctx)
		}
	}
	if u.err != nil {
		return done, u.s.fault("write to", "upload", u.err)
	}
	return done, nil
}

// copyFrom is io.Copy through the upload's own buffer.
func (u *upload) copyFrom(ctx context.Context, body io.Reader) (int64, error) {
	var total int64
	for {
		n, err := io.ReadFull(body, (*u.buf)[u.n:])
		u.n, total = u.n+n, total+int64(n)
		if u.n == piece {
			u.flush(ctx)
		}
		if u.err != nil {
			return total, u.err
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return total, ctx.Err()
		}
		if err != nil {
			return total, err
		}
	}
}

func (u *upload) flush(ctx context.Context) {
	if u.err = ctx.Err(); u.err != nil || u.n == 0 {
		return
	}
	n, err := u.f.Write((*u.buf)[:u.n])
	if err == nil && n < u.n {
		err = io.ErrShortWrite
	}
	u.n, u.err = 0, err
}

// Commit writes the rest and syncs; then the object is whole but has no name.
// A crash before Publish leaves only a temp. After Publish it is visible, and a
// power cut may still take the name away, so nil is returned only once the folder
// is synced too. From Publish on ctx is not asked any more: turning back there
// would leave the caller not knowing.
func (u *upload) Commit(ctx context.Context, name string) error {
	if u.over {
		return fmt.Errorf("commit %s in %s: the upload is over: %w", name, u.s.root, fs.ErrClosed)
	}
	defer u.Abort()
	if err := store.CheckName(name); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if u.err == nil {
		u.flush(ctx)
	}
	if u.err != nil {
		return u.s.fault("put", name, u.err)
	}
	if err := u.f.Sync(); err != nil {
		return u.s.fault("put", name, err)
	}
	f := u.f
	u.f = nil
	if err := f.Close(); err != nil {
		return u.s.fault("put", name, err)
	}
	if err := ctx.Err(); err != nil {
		return u.s.fault("put", name, err)
	}
	if err := u.s.publish(u.temp, name); err != nil {
		return err
	}
	u.temp = "" // it is the object now
	return nil
}

func (s *Store) publish(temp, name string) error {
	path := s.path(name)
	folder := filepath.Dir(path)
	if err := s.here(); err != nil {
		return s.fault("put", name, err)
	}
	if err := s.folder(folder); err != nil {
		return s.fault("put", name, err)
	}
	err := s.fs.Publish(temp, path)
	if errors.Is(err, fs.ErrNotExist) {
		// A folder we made was removed meanwhile. Once more, from the root.
		s.forget()
		if err := s.folder(folder); err != nil {
			return s.fault("put", name, err)
		}
		err = s.fs.Publish(temp, path)
	}
	if errors.Is(err, fs.ErrExist) {
		return s.taken(name)
	}
	if err != nil {
		return s.fault("put", name, err)
	}
	if err := s.fs.SyncDir(folder); err != nil {
		return s.fault("put", name, err)
	}
	return nil
}

// Abort closes and removes the temp file. Should that fail, Sweep finds it later.
func (u *upload) Abort() {
	if u.over {
		return
	}
	u.over = true
	if u.f != nil {
		_ = u.f.Close()
	}
	if u.temp != "" {
		_ = u.s.fs.Remove(u.temp)
	}
	u.s.pieces.Put(u.buf)
	u.buf = nil
}
