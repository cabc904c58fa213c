package export

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/millrace-backup/millrace/hypervisor/folder/images"
	"github.com/millrace-backup/millrace/hypervisor/vmconfig"
)

// Configuration is what Guest.Config holds of a guest that is an export of Hyper-V,
// as JSON. Fields are only ever added.
type Configuration struct {
	Form   string `json:"form"` // "hyperv-export"
	File   string `json:"file"` // the machine's configuration, from the export's folder, with slashes; empty: there is none
	SHA256 string `json:"sha256,omitempty"`
	// Machine is what the file says; nil when it could not be read, see Remarks. It
	// is for people and for a later restore: see vmconfig for what it is worth.
	Machine     *vmconfig.Machine `json:"machine,omitempty"`
	Checkpoints []Checkpoint      `json:"checkpoints,omitempty"`
	Folders     []string          `json:"folders,omitempty"` // of the tree, that have nothing in them
	Defects     []Defect          `json:"defects,omitempty"`
	Remarks     []string          `json:"remarks,omitempty"`
}

// Checkpoint is a checkpoint's configuration.
type Checkpoint struct {
	File  string          `json:"file"`
	Name  string          `json:"name"`
	ID    string          `json:"id"`
	Disks []vmconfig.Disk `json:"disks,omitempty"`
}

// Defect is something for want of which the tree, or a checkpoint in it, is not whole.
type Defect struct {
	File   string `json:"file"` // in the tree
	Reason string `json:"reason"`
}

const (
	exportForm     = "hyperv-export"
	maxCheckpoints = 200 // Hyper-V makes 50 of a machine
	// What is more than this of a configuration is left out: it must fit into a fact.
	maxConfiguration = 1 << 20
	maxRemarks       = 200
	maxDefects       = 200
	maxFolders       = 500
)

// ErrNoExport says that a guest's configuration is not one of an export.
var ErrNoExport = errors.New("not the configuration of an exported machine")

// ReadConfiguration reads what Guest.Config holds of an exported machine.
func ReadConfiguration(b []byte) (Configuration, error) {
	var c Configuration
	if err := json.Unmarshal(b, &c); err != nil || c.Form != exportForm {
		return Configuration{}, ErrNoExport
	}
	return c, nil
}

// readMachine reads a configuration, and sums it up.
func readMachine(path string) (m vmconfig.Machine, sum string, err error) {
	f, err := images.OpenFile(path)
	if err != nil {
		return m, "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return m, "", err
	}
	if st.Size() > vmconfig.MaxSize { // which it says without reading
		m, err = vmconfig.Read(f, st.Size())
		return m, "", err
	}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, st.Size()))
	if err != nil {
		return m, "", err
	}
	h := sha256.Sum256(b)
	m, err = vmconfig.Read(bytes.NewReader(b), int64(len(b)))
	return m, hex.EncodeToString(h[:]), err
}

// encode is the configuration for Guest.Config, readable as it is. One that would be
// too large loses what matters least.
func (c Configuration) encode() ([]byte, error) {
	c.Remarks = slices.Clone(c.Remarks[:min(len(c.Remarks), maxRemarks)])
	c.Defects = c.Defects[:min(len(c.Defects), maxDefects)]
	c.Folders = c.Folders[:min(len(c.Folders), maxFolders)]
	b, err := c.text()
	if err == nil && len(b) > maxConfiguration {
		c.Checkpoints = nil
		c.Remarks = append(c.Remarks, "the checkpoints are left out, there is too much of them")
		b, err = c.text()
	}
	if err == nil && len(b) > maxConfiguration {
		c = Configuration{Form: c.Form, File: c.File, SHA256: c.SHA256, Remarks: []string{"what the configuration says is left out, there is too much of it"}}
		b, err = c.text()
	}
	return b, err
}

func (c Configuration) text() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(c); err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	return bytes.TrimSpace(b.Bytes()), nil
}
