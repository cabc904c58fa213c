package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
)

// Mixed makes a disk image of size bytes in which holes, text, random bytes and
// stretches that occur twice alternate. The bytes depend on seed and size alone,
// and no two blocks of one image, or of images of two seeds, are equal by chance.
func Mixed(path string, size int64, seed uint64) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make image: %w", err)
	}
	err = mixed(f, size, rand.New(rand.NewPCG(seed, uint64(size))))
	if err = errors.Join(err, f.Truncate(size), f.Close()); err != nil {
		return fmt.Errorf("make image %s: %w", path, err)
	}
	return nil
}

func mixed(f *os.File, size int64, rng *rand.Rand) error {
	const stretch = 128 << 10
	const letters = "etaoin shrdlu\n"
	block, earlier := make([]byte, stretch), make([]byte, stretch)
	noise := rand.NewChaCha8([32]byte(binary.LittleEndian.AppendUint64(make([]byte, 24), rng.Uint64())))
	for at := int64(0); at < size; at += stretch {
		switch rng.IntN(6) {
		case 0:
			continue // a hole
		case 1:
			copy(block, earlier) // again
		case 2, 3:
			_, _ = noise.Read(block)
		default:
			for i := range block {
				block[i] = letters[rng.Uint32()%uint32(len(letters))]
			}
			for i := 0; i < stretch; i += 4096 {
				binary.LittleEndian.PutUint64(block[i:], rng.Uint64())
			}
		}
		copy(earlier, block)
		if _, err := f.WriteAt(block[:min(stretch, size-at)], at); err != nil {
			return err
		}
	}
	return nil
}
