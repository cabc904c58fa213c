package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
)

// image is a raw disk of size bytes: the first data bytes have content, or a
// block in every so many.
type image struct {
	path              string
	size, data, every int64
	seed              uint64 // of what was changed last
}

const block = 4096

// make writes the image. ext4 has no files of 16 TiB: the last block is left out.
func (m *image) make() error {
	m.size = min(m.size, 1<<44-block)
	f, err := os.Create(m.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(m.size); err != nil {
		return fmt.Errorf("make %s: %w", m.path, err)
	}
	if m.every > 0 {
		for at := int64(0); at < m.size; at += m.every {
			if _, err := f.WriteAt(content(uint64(at), block), at); err != nil {
				return err
			}
		}
		return f.Close()
	}
	for at := int64(0); at < m.data; at += 1 << 20 {
		if _, err := f.WriteAt(content(uint64(at), 1<<20), at); err != nil {
			return err
		}
	}
	return f.Close()
}

// content is half noise, half not: it does not repeat and compresses to half.
func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i < n; i += 16 {
		binary.LittleEndian.PutUint64(b[i:], rnd.Uint64())
		binary.LittleEndian.PutUint64(b[i+8:], 0x0101010101010101)
	}
	return b
}

// change writes to a block in a hundred.
func (m *image) change() error {
	f, err := os.OpenFile(m.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	step, end := int64(100*block), m.data
	if m.every > 0 {
		step, end = 100*m.every, m.size
	}
	for at := int64(0); at < end; at += step {
		if _, err := f.WriteAt(content(uint64(at)+7, block), at); err != nil {
			return err
		}
	}
	return f.Close()
}

// compare reads both where the image may have data, and sees to it that the other
// is as sparse.
func (m *image) compare(path string) error {
	a, err := os.Open(m.path)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(path)
	if err != nil {
		return err
	}
	defer b.Close()
	st, err := b.Stat()
	if err != nil || st.Size() != m.size {
		return fmt.Errorf("%s has %d bytes, want %d: %w", path, st.Size(), m.size, err)
	}
	step, n, end := int64(1<<20), 1<<20, m.data
	if m.every > 0 {
		step, n, end = m.every, 2*block, m.size
	}
	x, y := make([]byte, n), make([]byte, n)
	for at := int64(0); at < end; at += step {
		nx, err1 := a.ReadAt(x, at)
		ny, err2 := b.ReadAt(y, at)
		if !bytes.Equal(x[:nx], y[:ny]) || err1 != nil && !errors.Is(err1, io.EOF) || err2 != nil && !errors.Is(err2, io.EOF) {
			return fmt.Errorf("the restored disk differs in the %d bytes at %d (%v, %v)", n, at, err1, err2)
		}
	}
	return nil
}
