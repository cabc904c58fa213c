package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// writer writes to an NBD export: many requests are under way at a time, and what came of
// them is known when it is closed.
type writer struct {
	conn   net.Conn
	out    *bufio.Writer
	slots  chan struct{} // one for each request under way
	end    chan error    // of the goroutine that reads replies
	cookie uint64
}

const writesAtOnce = 64

// dial opens an export.
func dial(path, name string) (*writer, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	var hello [18]byte
	ask := binary.BigEndian.AppendUint32(nil, 3) // fixed newstyle, no zeros
	ask = append(ask, "IHAVEOPT"...)
	ask = binary.BigEndian.AppendUint32(ask, 7) // NBD_OPT_GO
	ask = binary.BigEndian.AppendUint32(ask, uint32(len(name)+6))
	ask = binary.BigEndian.AppendUint32(ask, uint32(len(name)))
	ask = append(append(ask, name...), 0, 0)
	if _, err = io.ReadFull(conn, hello[:]); err == nil {
		_, err = conn.Write(ask)
	}
	for err == nil {
		var head [20]byte
		if _, err = io.ReadFull(conn, head[:]); err != nil {
			break
		}
		kind := binary.BigEndian.Uint32(head[12:])
		if _, err = io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(head[16:]))); err != nil || kind == 1 {
			break
		}
		if kind&(1<<31) != 0 {
			err = fmt.Errorf("NBD export %s: refused with %#x", name, kind)
		}
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	w := &writer{conn: conn, out: bufio.NewWriterSize(conn, 256<<10), slots: make(chan struct{}, writesAtOnce), end: make(chan error, 1)}
	go func() { w.end <- w.replies() }()
	return w, nil
}

func (w *writer) replies() error {
	r := bufio.NewReader(w.conn)
	for {
		var head [16]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		if n := binary.BigEndian.Uint32(head[4:]); n != 0 {
			return fmt.Errorf("a write fails with error %d", n)
		}
		<-w.slots
	}
}

func (w *writer) request(kind uint16, off int64, n int, b []byte) error {
	for {
		select {
		case w.slots <- struct{}{}:
		default: // nobody answers what is not sent
			if err := w.out.Flush(); err != nil {
				return err
			}
			select {
			case w.slots <- struct{}{}:
			case err := <-w.end:
				w.end <- err
				return err
			}
		}
		break
	}
	w.cookie++
	head := binary.BigEndian.AppendUint32(nil, 0x25609513)
	head = binary.BigEndian.AppendUint32(head, uint32(kind))
	head = binary.BigEndian.AppendUint64(head, w.cookie)
	head = binary.BigEndian.AppendUint64(head, uint64(off))
	head = binary.BigEndian.AppendUint32(head, uint32(n))
	_, err := w.out.Write(head)
	if err == nil {
		_, err = w.out.Write(b)
	}
	return err
}

// at writes bytes.
func (w *writer) at(off int64, b []byte) error { return w.request(1, off, len(b), b) }

// settle waits until all requests are answered.
func (w *writer) settle() error {
	err := w.out.Flush()
	for n := 0; n < writesAtOnce && err == nil; n++ {
		select {
		case w.slots <- struct{}{}:
		case err = <-w.end:
			w.end <- err
		}
	}
	for len(w.slots) > 0 && err == nil {
		<-w.slots
	}
	return err
}

// close waits for all writes and lets go of the export.
func (w *writer) close() error {
	err := errors.Join(w.settle(), w.conn.Close())
	<-w.end
	return err
}
