package chunker

import (
	"testing"

	"github.com/millrace-backup/millrace/chunk"
	"github.com/millrace-backup/millrace/flow"
)

// A cell of 4 MiB that has one block, of a disk that is mostly holes, with and
// without what the reader says of it. The cells take turns, as slots do.
func BenchmarkMostlyHole(b *testing.B) {
	const cell, slots = 4 << 20, 8
	for name, runs := range map[string][]flow.Run{"known": {{Offset: 0, Length: 4096}}, "looked for": nil} {
		b.Run(name, func(b *testing.B) {
			s := makeStage(b, chunk.Aligned)
			s.cell = cell
			mem := make([]byte, slots*cell)
			for n := range slots {
				mem[n*cell] = 1
			}
			for n := 0; b.Loop(); n = (n + 1) % slots {
				p := flow.Parcel{Length: cell, Runs: runs}
				if err := s.parcel(&p, mem[n*cell:][:cell]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
