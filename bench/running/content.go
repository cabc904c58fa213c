package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
)

const (
	block  = 4 << 10
	region = 64 << 20 // data lies in regions, spread evenly over the disk
)

// content is what a disk holds: where its data lies.
type content struct {
	size, data int64
}

// place is where byte n of the data lies on the disk.
func (c content) place(n int64) int64 {
	regions := max(c.data/region, 1)
	apart := c.size / regions / region * region
	return n/region*apart + n%region
}

// fill writes the data of a disk: noise, or what from holds.
func (c content) fill(w *writer, from io.Reader) error {
	buf, zeros := make([]byte, 1<<20), make([]byte, 1<<20)
	for n := int64(0); n < c.data; n += int64(len(buf)) {
		if _, err := io.ReadFull(from, buf); err != nil {
			return err
		}
		if bytes.Equal(buf, zeros) {
			continue
		}
		w.at(c.place(n), buf)
	}
	return nil
}

// noise is an endless stream that nothing can compress.
func noise(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{'r', 'u', 'n', seed}) }

// scatter overwrites a share of the data's blocks, chosen evenly, in no order, with fresh
// noise. It returns how many bytes it has changed.
func (c content) scatter(w *writer, share float64, seed byte) (changed int64) {
	from := noise(seed)
	pick := rand.New(from)
	blocks := c.data / block
	seen := map[int64]bool{}
	buf := make([]byte, block)
	for want := max(1, int64(share*float64(blocks))); int64(len(seen)) < want; {
		n := pick.Int64N(blocks)
		if seen[n] {
			continue
		}
		seen[n] = true
		_, _ = from.Read(buf) // never fails
		w.at(c.place(n*block), buf)
	}
	return int64(len(seen)) * block
}

// source opens what a disk is filled with: an image of real files, or noise.
func source(image string, seed byte) (io.ReadCloser, int64, error) {
	if image == "" {
		return io.NopCloser(noise(seed)), 0, nil
	}
	f, err := os.Open(image)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() < region {
		err = fmt.Errorf("%s is too small", image)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size() / (1 << 20) << 20, nil
}
