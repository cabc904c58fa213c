// Package hypervisor has the words and the contract between the backup flow
// and whatever runs guests: how guests and their disks are named, frozen and
// opened.
//
// A driver is a package below this one (hypervisor/folder is the first). It
// provides three small interfaces, used in this order: [Inspector] lists
// guests with their disks, [Freezer] holds the disks of one guest still, and
// [Opener] opens a disk that is held still. One that knows what has changed since an
// earlier freeze is a [Tracker] too. The stages that use them are
// different processes: what Inspect returns is plain data that may travel, and
// a freeze whose process died is taken up again from its record.
//
// Words: to freeze is to fix the instant that is backed up, by whatever means
// the driver has (a checkpoint, a snapshot of the file system, or, where there
// is neither, proof that nobody wrote). A policy is what the user asks for, the
// consistency is what was obtained; both are recorded. A disk of a guest that
// cannot be backed up is listed as unprotected, with the reason, and never
// just left out.
//
// Guarantees. Ids are stable: inspecting an unchanged guest again, in another
// process too, gives the same ids in the same order. A driver never writes to
// a disk. Freeze either holds all disks of the guest at one instant or none.
// All methods may be called from any goroutine, one call at a time for each
// [Hold].
//
// hypervisor/drivertest holds every driver to these promises. The package
// itself does no I/O.
package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vdisk"
)

// Errors that callers of a driver tell apart.
var (
	// ErrChanged says that a disk is no longer what was frozen. What was read
	// from it since may be torn; freeze anew.
	ErrChanged = errors.New("disk has changed since it was frozen")
	// ErrConsistency says that the driver cannot give what the policy demands.
	ErrConsistency = errors.New("consistency cannot be had")
	// ErrNoDisks says that there is nothing to back up.
	ErrNoDisks = errors.New("no disk image found")
	// ErrReleased says that a freeze is over.
	ErrReleased = errors.New("freeze was released")
)

// MaxDisks is how many disks of a guest can be backed up, carried files among them. A
// point names up to 16 tables of each, and has to fit into a message: see events.Unmarshal.
const MaxDisks = 1000

// Guest is a virtual machine as it was inspected.
type Guest struct {
	ID          id.Guest
	Name        string // for people; not unique
	Driver      string // name of the driver, "folder"
	Source      string // where the driver finds it again: a path, an address
	Config      []byte // the hypervisor's description of the machine, in its own form; may be empty
	Disks       []Disk // those that are backed up, in a stable order, carried files last
	Unprotected []Unprotected
}

// Disk is a virtual disk of a guest.
type Disk struct {
	ID   id.Disk
	Key  string // its stable name inside the guest: a file name, a controller's slot
	Path string // where the driver opens it
	Info vdisk.Info
	// File is where its file is in the tree of an exported machine, with slashes, if
	// that tree is kept. Empty: there is no tree, or it can have no such path.
	File string
	// Carried says that this is no disk of the machine but the file, byte for byte.
	Carried bool
	// Since is the token that the disk's tracking had at the point that it is to be
	// compared with; nil: there is none, or it has none. Set by who calls Freeze.
	Since []byte
}

// Unprotected is something of a guest that is not backed up, and why.
type Unprotected struct {
	Key    string
	Reason string
}

// Policy is how still a guest has to be. The zero value is AppPreferred.
type Policy string

// The policies. Values are recorded, so they are only ever added.
const (
	AppPreferred Policy = "app-preferred" // the best that can be had
	AppRequired  Policy = "app-required"  // applications flushed, or the guest off; else ErrConsistency
	CrashOnly    Policy = "crash"         // as after a power cut, without asking the guest
)

// Check is an error for a policy that there is not. An empty one is the zero value.
func (p Policy) Check() error {
	switch p {
	case "", AppPreferred, AppRequired, CrashOnly:
		return nil
	}
	return fmt.Errorf("unknown policy %q", string(p))
}

// What a freeze obtained. Values are recorded, so they are only ever added.
const (
	Offline         = "offline"          // nobody had the disks open for writing
	AppConsistent   = "app-consistent"   // applications in the guest flushed and paused
	FSConsistent    = "fs-consistent"    // file systems in the guest flushed and paused; applications only by hooks of their own
	CrashConsistent = "crash-consistent" // as after a power cut
)

// Inspector finds guests.
type Inspector interface {
	// Inspect returns all guests of the driver's source. A disk that belongs
	// to a guest but cannot be opened is an error that names it.
	Inspect(ctx context.Context) ([]Guest, error)
}

// Freezer holds the disks of guests still.
type Freezer interface {
	// Freeze holds all disks of g from one instant on. The error is
	// ErrConsistency when the policy cannot be met, ErrChanged when a disk is
	// not what was inspected or cannot be held still for being written to.
	Freeze(ctx context.Context, g Guest, p Policy) (Frozen, error)
	// Resume takes up the freeze of g that made record, after the process that
	// held it has ended. The error is ErrChanged when that instant is gone.
	Resume(ctx context.Context, g Guest, record []byte) (Frozen, error)
}

// Frozen is a guest held still, with what is to be said about it.
type Frozen struct {
	Hold
	Consistency string // Offline, AppConsistent or CrashConsistent
	Method      string // how, in the driver's words: "folder"
	Reason      string // why no better consistency, for people; may be empty
	// RecheckPercent is how much of what was read must be read again at the
	// end and compared, because Changed alone would not see every write: from
	// 1, a sample to keep the driver honest, to 100. 0: nothing, as the system
	// itself keeps the instant apart from what is written later.
	RecheckPercent int
	// Tracking is of each of the guest's disks, in their order; nil: the driver does
	// not track changes.
	Tracking []Tracking
	// Stood is how long the guest stood still, or its file systems held writes back.
	Stood time.Duration
}

// Tracking is what records a disk's changes from the instant of the freeze on.
type Tracking struct {
	Kind  string // how: "bitmap"; empty: nothing does
	Token []byte // for Disk.Since, when the point of this freeze is the one compared with
	// Granularity is the unit, in bytes, in which changes since Disk.Since are known.
	// 0: they are not.
	Granularity int64
	Reason      string // why they are not, or why nothing is recorded from now on
}

// Hold keeps a freeze in force until it is released or its process ends.
type Hold interface {
	// Record is what Resume needs. It does not change, holds no secret, and
	// has to be stored before the freeze is relied on.
	Record() []byte
	// Changed returns nil when, as far as the system can tell, every disk has
	// the bytes it had at the instant of the freeze. The error is ErrChanged,
	// wrapped with the disk and what differs; it stays so once it was.
	Changed(ctx context.Context) error
	// Release ends the freeze. Kept says that its point is committed, so that the next
	// job will ask for changes since this one, and not since that before.
	// Releasing again does nothing. Changed after it is ErrReleased.
	Release(ctx context.Context, kept bool) error
}

// OpenDisk is the image of a disk while it is open.
type OpenDisk interface {
	vdisk.Image
	io.Closer
}

// Tracker knows what has changed on disks of a frozen guest.
type Tracker interface {
	// Changes lists, in order and apart, the ranges of a disk that may have changed
	// between d.Since and the freeze; all else is as it was then. It may be asked
	// only if the freeze said so ([Tracking]), in any process.
	Changes(ctx context.Context, d Disk) iter.Seq2[Range, error]
}

// Watcher is a [Hold] that knows how the guest fares meanwhile.
type Watcher interface {
	// Latency is how long the guest's requests to its disks have taken since the call
	// before, on average, and how many they were.
	Latency(ctx context.Context) (mean time.Duration, requests int64, err error)
}

// Releaser is a [Freezer] whose freezes outlive the process that made them, so that one
// which died in the middle of a release leaves some of it.
type Releaser interface {
	// ReleaseRecord ends the freeze of g that made record, or what is left of it.
	ReleaseRecord(ctx context.Context, g Guest, record []byte, kept bool) error
}

// Range is a part of a disk, in bytes.
type Range struct{ Offset, Length int64 }

// Opener opens disks of a frozen guest for reading.
type Opener interface {
	// Open may be called in other processes than the one that froze, any
	// number of times.
	Open(ctx context.Context, d Disk) (OpenDisk, error)
}
