package workload

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
)

// Zero makes a sparse file of size bytes at path: a disk nobody has written to.
func Zero(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make image %s: %w", path, err)
	}
	err = f.Truncate(size)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("make image %s of %d bytes: %w", path, size, err)
	}
	return nil
}

// Random makes a file of size bytes at path that nothing can compress and in
// which no two blocks are equal. The bytes depend on seed alone.
func Random(path string, size int64, seed uint64) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make image %s: %w", path, err)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(source(seed), size), make([]byte, 1<<20))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("make image %s of %d bytes: %w", path, size, err)
	}
	return nil
}

// Database makes a file of size bytes at path as a database leaves its volume: pages
// of 8 KiB with a header, rows that compress to about half, and free room that is
// zero, written in no order into one third of the volume, the rest never written. The
// bytes depend on seed and size alone. [Scatter] then is a day's work on it.
func Database(path string, size int64, seed uint64) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make image %s: %w", path, err)
	}
	err = database(f, size, source(seed))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("make image %s of %d bytes: %w", path, size, err)
	}
	return nil
}

func database(f *os.File, size int64, from *rand.ChaCha8) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	const page, extent = 8 << 10, 1 << 20 // a volume grows by extents
	pick := rand.New(from)
	buf := make([]byte, page)
	for at := int64(0); at+extent <= size; at += extent {
		if pick.IntN(3) != 0 {
			continue
		}
		for n := int64(0); n < extent; n += page {
			clear(buf)
			binary.LittleEndian.PutUint64(buf, uint64(at+n)) // where it belongs
			binary.LittleEndian.PutUint64(buf[8:], pick.Uint64())
			for row, end := 64, page*(50+pick.IntN(50))/100; row+32 <= end; row += 32 {
				binary.LittleEndian.PutUint64(buf[row:], pick.Uint64())
				binary.LittleEndian.PutUint32(buf[row+8:], uint32(row))
				copy(buf[row+12:], "row of a table......")
			}
			if _, err := f.WriteAt(buf, at+n); err != nil {
				return err
			}
		}
	}
	return nil
}

// Scatter overwrites blocks of 4 KiB, chosen evenly over the whole image, with
// fresh random bytes and returns how many it changed: ratio of all whole blocks
// (0.01 for one in a hundred), at least one. The choice and the bytes depend on
// seed and the image's size alone. The file keeps its length and its inode, so
// it looks like a guest that wrote to its disk.
func Scatter(path string, ratio float64, seed uint64) (int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("change image: %w", err)
	}
	changed, err := scatter(f, ratio, source(seed))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return changed, fmt.Errorf("change image %s: %w", path, err)
	}
	return changed, nil
}

func scatter(f *os.File, ratio float64, from *rand.ChaCha8) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	blocks := info.Size() / fsBlock
	if blocks == 0 || ratio < 0 || ratio > 1 {
		return 0, fmt.Errorf("%g of %d blocks cannot be changed", ratio, blocks)
	}
	// Selection sampling keeps the choice exact, distinct and in order of
	// offset, without a table of what has been chosen.
	pick := rand.New(from)
	left := max(1, int64(ratio*float64(blocks)))
	var changed int64
	buf := make([]byte, fsBlock)
	for n := int64(0); n < blocks && left > 0; n++ {
		if pick.Int64N(blocks-n) >= left {
			continue
		}
		if _, err := from.Read(buf); err != nil {
			return changed, err
		}
		if _, err := f.WriteAt(buf, n*fsBlock); err != nil {
			return changed, err
		}
		left--
		changed++
	}
	return changed, nil
}

// source returns a stream of random bytes that depends on seed alone.
func source(seed uint64) *rand.ChaCha8 {
	var key [32]byte
	copy(key[:], "millrace workload")
	binary.LittleEndian.PutUint64(key[24:], seed)
	return rand.NewChaCha8(key)
}

// VHDX converts a raw image into a VHDX of the given variant, "dynamic" or
// "fixed", with qemu-img. Its identifiers are drawn by qemu-img and differ from
// one call to the next; what the guest sees does not.
func VHDX(ctx context.Context, raw, out, variant string) error {
	if variant != "dynamic" && variant != "fixed" {
		return fmt.Errorf("convert %s: VHDX variant %q is neither dynamic nor fixed", raw, variant)
	}
	qemu, err := find("qemu-img", "qemu-utils")
	if err != nil {
		return err
	}
	if _, err := call(ctx, nil, qemu, "convert", "-f", "raw", "-O", "vhdx", "-o", "subformat="+variant, raw, out); err != nil {
		return fmt.Errorf("convert %s to %s: %w", raw, out, err)
	}
	return nil
}
