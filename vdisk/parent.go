package vdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// Parent is what a differencing image says about the image beneath it, without
// which it is no disk. All of it was read from the child's file: who follows it
// looks only in folders that the caller allows.
type Parent struct {
	Format   string       // of the parent: "vhd", "vhdx", "qcow2", "raw"; "" where the child does not say
	Links    []string     // Info.Link of the parent must be one of these; empty where the format has no such ids
	Paths    []ParentPath // where the parent may be, in the order in which to look
	Modified time.Time    // of the parent's file when the child was made; zero where the format does not say
}

// ParentPath is one place where a parent may be.
type ParentPath struct {
	Kind    PathKind
	Path    string // as the child has it
	Windows bool   // it is a path of Windows, whose separators are backslashes, whatever system this is
}

// PathKind tells what a ParentPath counts from. Values are only ever added.
type PathKind uint8

// The kinds of paths.
const (
	RelativePath PathKind = iota // to the child's folder
	VolumePath                   // of Windows, naming the volume by its GUID
	AbsolutePath
)

// FindParent returns the image that a child describes, and makes sure that it is
// the one: its link is one of those that the child asks for. A format's Open
// calls it at most once. The image stays its finder's to close.
type FindParent func(Parent) (Image, error)

// NoParent is a FindParent of who reads single images only: it refuses with
// ErrUnsupported and names the parent.
func NoParent(p Parent) (Image, error) {
	where := ""
	if len(p.Paths) > 0 {
		where = fmt.Sprintf(" (%q)", p.Paths[0].Path)
	}
	return nil, fmt.Errorf("%w: differencing image, its parent%s is needed to read it, and no folder is allowed that it may be in", ErrUnsupported, where)
}

// Below returns the parent that find, or NoParent where it is nil, has for p. One
// that finds nothing has refused.
func Below(find FindParent, p Parent) (Image, error) {
	if find == nil {
		find = NoParent
	}
	parent, err := find(p)
	if err == nil && parent == nil {
		return NoParent(p)
	}
	return parent, err
}

// ReadBeneath fills p with what a parent has at off; past its end there are
// zeros, because a child may be larger.
func ReadBeneath(parent Image, p []byte, off int64) error {
	in := p[:max(0, min(int64(len(p)), parent.Size()-off))]
	clear(p[len(in):])
	if len(in) == 0 {
		return nil
	}
	if n, err := parent.ReadAt(in, off); n < len(in) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read parent at %d: %w", off+int64(n), err)
	}
	return nil
}

// Beneath replaces the Inherited extents of own, which ends at to, by the parent's, which
// gives the merged view that Image.Extents promises. It ends after the first error. An
// image without a parent has nothing inherited: own is returned.
func Beneath(ctx context.Context, own iter.Seq2[Extent, error], parent Image, to int64) iter.Seq2[Extent, error] {
	if parent == nil {
		return own
	}
	return Merge(func(yield func(Extent, error) bool) {
		below := ahead{image: parent}
		for e, err := range own {
			if err != nil || e.Kind != Inherited {
				if !yield(e, err) || err != nil {
					return
				}
				continue
			}
			there := max(e.Offset, min(e.End(), parent.Size()))
			if !below.list(ctx, e.Offset, there, to, 0, yield) || !yield(Extent{Offset: there, Length: e.End() - there, Kind: Zero}, nil) {
				return
			}
		}
	})
}
