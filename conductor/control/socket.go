package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// maxPath is the longest path that all systems take for a socket; macOS is the
// narrowest.
const maxPath = 100

// within calls use with a path of the socket in folder that is short enough: the
// path itself, or one through a link that is removed again.
func within(folder string, use func(path string) error) (err error) {
	path := filepath.Join(folder, SocketName)
	if len(path) <= maxPath {
		return use(path)
	}
	short, err := os.MkdirTemp("", "millrace-")
	if err != nil {
		return fmt.Errorf("make a short way to %s: %w", path, err)
	}
	link := filepath.Join(short, "job")
	defer func() { err = errors.Join(err, os.RemoveAll(short)) }()
	if folder, err = filepath.Abs(folder); err != nil {
		return err
	}
	if err := os.Symlink(folder, link); err != nil {
		return fmt.Errorf("make a short way to %s: %w", path, err)
	}
	return use(filepath.Join(link, SocketName))
}

// listen makes the socket. The folder keeps everybody else out even before the
// mode is set.
func listen(folder string) (l *net.UnixListener, err error) {
	path := filepath.Join(folder, SocketName)
	_ = os.Remove(path)
	err = within(folder, func(path string) error {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it would look for the short path
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(path))
	}
	return l, nil
}

func dial(ctx context.Context, folder string) (c net.Conn, err error) {
	err = within(folder, func(path string) error {
		var d net.Dialer
		c, err = d.DialContext(ctx, "unix", path)
		return err
	})
	return c, err
}
