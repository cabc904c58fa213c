package sweep

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/conductor/parallel"
	"github.com/millrace-backup/millrace/flow"
)

// Point is a way to run a backup. Zero values are defaults.
type Point struct {
	Name      string         `json:"name"`
	Factor    string         `json:"factor"` // what it is about: defaults, grid, parallel, codec, transport or parcel
	Parallel  map[string]int `json:"parallel"`
	Codec     string         `json:"codec"`
	Transport string         `json:"transport"`
	Parcel    int64          `json:"parcel_bytes"`
}

const (
	usual       = 8 << 20 // what a parcel is by default: see the conductor's options
	normalCodec = "auto"
)

// flags are the point on the command line.
func (p Point) flags() []string {
	var workers []string
	for _, stage := range slices.Sorted(maps.Keys(p.Parallel)) {
		if parallel.Check(stage, 2, nil) == nil {
			workers = append(workers, fmt.Sprintf("%s=%d", stage, p.Parallel[stage]))
		}
	}
	return []string{"--parallel", strings.Join(workers, ","), "--codec", p.Codec, "--transport", p.Transport, "--parcel", fmt.Sprint(p.Parcel)}
}

// Points are what a sweep of a machine with so many processors runs. The first is the
// defaults.
func Points(cpus int) []Point {
	normal := parallel.Default(cpus)
	at := func(factor, name string, change func(*Point)) Point {
		p := Point{Name: name, Factor: factor, Parallel: maps.Clone(normal), Codec: normalCodec, Transport: flow.Claim, Parcel: usual}
		change(&p)
		return p
	}
	all := []Point{at("defaults", "defaults", func(*Point) {})}
	seals, chunkers := around(normal[flow.Seal], 2*cpus), around(normal[flow.Chunker], cpus+1)
	for _, c := range chunkers {
		for _, s := range seals {
			if c == normal[flow.Chunker] && s == normal[flow.Seal] {
				continue // the defaults
			}
			all = append(all, at("grid", fmt.Sprintf("chunker=%d seal=%d", c, s), func(p *Point) { p.Parallel[flow.Chunker], p.Parallel[flow.Seal] = c, s }))
		}
	}
	for _, stage := range []string{flow.Reader, flow.Delta, flow.Uploader} {
		n := normal[stage] + 1
		all = append(all, at("parallel", fmt.Sprintf("%s=%d", stage, n), func(p *Point) { p.Parallel[stage] = n }))
	}
	for _, codec := range []string{"lz4", "s2", "zstd", "none"} {
		all = append(all, at("codec", codec, func(p *Point) { p.Codec = codec }))
	}
	all = append(all, at("transport", flow.Inline, func(p *Point) { p.Transport, p.Parcel = flow.Inline, usual/2 })) // more does not fit a message
	for _, n := range []int64{usual / 2, 2 * usual, 4 * usual} {
		all = append(all, at("parcel", fmt.Sprintf("parcel %d MiB", n>>20), func(p *Point) { p.Parcel = n }))
	}
	return all
}

// around are numbers of workers worth trying where n is the default.
func around(n, most int) []int {
	all := []int{1, (n + 1) / 2, n, n + 1, n + 2, 3 * n / 2, 2 * n}
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(all, func(k int) bool { return k > min(max(most, n), parallel.MaxWorkers) })
}
