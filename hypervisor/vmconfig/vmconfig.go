// Package vmconfig reads what Hyper-V writes down of a virtual machine, for
// inventory: its name, id, generation, memory, processors and which disk is at
// which controller.
//
// Call [Read] with a configuration file of either kind: .vmcx, a binary store of
// keys and values (Windows Server 2016 and later), or .xml (to 2012 R2; UTF-16
// or UTF-8). Both hold the same tree of names, as far as is known. [Machine] is
// plain data that travels as JSON; fields are only ever added.
//
// UNPROVEN. Microsoft documents neither form. What is read here follows what
// others found out about them (the layout that the dissect.hypervisor project
// describes, configurations that people published), and no genuine .vmcx has been
// read by this package yet. Therefore nothing may depend on an answer: whoever
// asks goes on without one, and says so. A .vmcx with changes in its log is read
// without them, and [Machine].Remarks say so. Checksums are not checked: which sums
// they are is not known.
//
// A file is foreign bytes: at most [MaxSize] of it are read, memory stays within a
// few times of that, and what is wrong with it is an error. Nothing is written.
package vmconfig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Errors of Read.
var (
	// ErrForm says that the bytes break the rules of their form, as far as these
	// are known, or are not a machine's configuration.
	ErrForm = errors.New("not a readable machine configuration")
	// ErrUnsupported says that the file may be sound but is of a version that is not
	// known.
	ErrUnsupported = errors.New("unsupported machine configuration")
)

// MaxSize is how large a configuration may be, in bytes. Real ones have some 100 KiB.
const MaxSize = 8 << 20

// Machine is a virtual machine as its configuration describes it. What the
// configuration does not say is zero.
type Machine struct {
	Name       string `json:"name"`
	ID         string `json:"id"`                   // a GUID, in lower case without braces
	Kind       string `json:"kind,omitempty"`       // "Virtual Machines"; of a checkpoint "Snapshots"
	Generation int    `json:"generation,omitempty"` // 1: BIOS, 2: UEFI
	Version    string `json:"version,omitempty"`    // of the configuration: "5.0" is 2012 R2, "9.0" is 2019
	Processors int64  `json:"processors,omitempty"`
	Memory     int64  `json:"memory_mib,omitempty"` // when it starts, MiB
	MemoryMin  int64  `json:"memory_min_mib,omitempty"`
	MemoryMax  int64  `json:"memory_max_mib,omitempty"`
	Dynamic    bool   `json:"dynamic_memory,omitempty"`
	SecureBoot bool   `json:"secure_boot,omitempty"`
	Disks      []Disk `json:"disks,omitempty"` // in the order of controllers and locations, IDE first
	// What was found odd while reading, for people.
	Remarks []string `json:"remarks,omitempty"`
}

// Disk is something that a controller has at one of its places, optical drives and
// empty places left out.
type Disk struct {
	Controller string `json:"controller"` // "IDE" or "SCSI"
	Number     int    `json:"number"`     // of the controller, from 0
	Location   int    `json:"location"`   // at the controller, from 0
	Type       string `json:"type"`       // "VHD" for every image in a file; anything else is none
	Path       string `json:"path"`       // as the host had it, with backslashes
}

// Slot names the place of a disk: "SCSI 0:1".
func (d Disk) Slot() string { return fmt.Sprintf("%s %d:%d", d.Controller, d.Number, d.Location) }

// Read reads a configuration of either form from r, which has size bytes.
func Read(r io.ReaderAt, size int64) (Machine, error) {
	m, err := read(r, size)
	if err != nil {
		return Machine{}, fmt.Errorf("read machine configuration: %w", err)
	}
	return m, nil
}

func read(r io.ReaderAt, size int64) (Machine, error) {
	if size < 4 || size > MaxSize {
		return Machine{}, fmt.Errorf("%w: %d bytes, it may have 4 to %d", ErrForm, size, MaxSize)
	}
	b := make([]byte, size)
	if n, err := r.ReadAt(b, 0); n < len(b) {
		return Machine{}, err
	}
	t := &tree{text: textFactor * int64(len(b))}
	var err error
	if binary.LittleEndian.Uint32(b) == signStore || len(b) > secondHeader+4 && binary.LittleEndian.Uint32(b[secondHeader:]) == signStore {
		err = t.readStore(b)
	} else {
		err = t.readXML(b)
	}
	if err != nil {
		return Machine{}, err
	}
	return t.machine()
}
