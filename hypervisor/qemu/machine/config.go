package machine

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/qemu/host"
)

// Configuration is what a guest's QEMU was, as Guest.Config has it in JSON: enough to
// define the guest again. Fields are only ever added.
type Configuration struct {
	Format   int            `json:"format"` // 1
	Kind     string         `json:"kind"`   // "qemu"
	QEMU     string         `json:"qemu"`   // version
	UUID     string         `json:"uuid"`
	Machine  string         `json:"machine"` // "pc-q35-7.2"
	CPUs     int            `json:"cpus"`
	CPU      string         `json:"cpu"`    // "qemu64-x86_64-cpu"
	Memory   int64          `json:"memory"` // bytes
	KVM      bool           `json:"kvm"`
	Firmware []Firmware     `json:"firmware,omitempty"`
	Disks    []ConfigDisk   `json:"disks"`
	NICs     []ConfigDevice `json:"nics,omitempty"`
	// CommandLine is what QEMU was started with, if that can be seen; secrets in it are
	// replaced by ***.
	CommandLine []string `json:"command_line,omitempty"`
}

// Firmware is a flash memory of the machine: its code, or its variables (NVRAM).
type Firmware struct {
	Key      string `json:"key"`
	File     string `json:"file"`
	Size     int64  `json:"size"`
	ReadOnly bool   `json:"read_only"`
	Data     []byte `json:"data,omitempty"` // of one that the guest can write to: its bytes, deflated
}

// ConfigDisk is a disk and where it is plugged in.
type ConfigDisk struct {
	Key    string `json:"key"`
	Device string `json:"device"` // "virtio-blk-pci", "scsi-hd", "ide-hd"
	Path   string `json:"path"`   // in QEMU's object model
	Bus    string `json:"bus,omitempty"`
	Boot   *int   `json:"bootindex,omitempty"`
	Serial string `json:"serial,omitempty"`
	File   string `json:"file"`
	Format string `json:"format"`
	Size   int64  `json:"size"`
}

// ConfigDevice is a network card.
type ConfigDevice struct {
	Key    string `json:"key"`
	Device string `json:"device"`
	MAC    string `json:"mac"`
}

const (
	maxNVRAM    = 64 << 20  // of a file
	maxDeflated = 512 << 10 // of what is kept of it
	maxCommand  = 256 << 10
)

// Describe asks QEMU what the guest is made of. What of it cannot be kept is added
// to the guest's Unprotected.
func (m *Monitor) Describe(ctx context.Context, g *hypervisor.Guest, found []Device) ([]byte, error) {
	c := Configuration{Format: 1, Kind: "qemu", QEMU: m.Version.String(), UUID: g.ID.String()}
	var memory struct {
		Base    int64 `json:"base-memory"`
		Plugged int64 `json:"plugged-memory"`
	}
	var cpus []struct {
		Path string `json:"qom-path"`
	}
	var kvm struct{ Enabled bool }
	for command, out := range map[string]any{"query-memory-size-summary": &memory, "query-cpus-fast": &cpus, "query-kvm": &kvm} {
		if err := m.Do(ctx, command, nil, out); err != nil {
			return nil, err
		}
	}
	if err := m.property(ctx, "/machine", "type", &c.Machine); err != nil {
		return nil, err
	}
	c.Machine = strings.TrimSuffix(c.Machine, "-machine")
	c.Memory, c.CPUs, c.KVM = memory.Base+memory.Plugged, len(cpus), kvm.Enabled
	if len(cpus) > 0 {
		_ = m.property(ctx, cpus[0].Path, "type", &c.CPU) // for people
	}
	for i := range found {
		switch d := &found[i]; {
		case d.Firmware:
			c.Firmware = append(c.Firmware, firmware(d, g))
		case d.Unprotected == "":
			c.Disks = append(c.Disks, m.plugged(ctx, d))
		}
	}
	var err error
	if c.NICs, err = m.nics(ctx); err != nil {
		return nil, err
	}
	c.CommandLine = hushed(host.CommandLine(m.PID))
	return json.Marshal(c)
}

// plugged says where a disk is plugged in. What a device does not tell stays out.
func (m *Monitor) plugged(ctx context.Context, d *Device) ConfigDisk {
	out := ConfigDisk{Key: d.Key, Path: d.QDev, File: d.File, Format: d.Driver, Size: d.Info.VirtualSize}
	at := strings.TrimSuffix(d.QDev, "/virtio-backend")
	_ = m.property(ctx, at, "type", &out.Device)
	_ = m.property(ctx, at, "parent_bus", &out.Bus)
	_ = m.property(ctx, d.QDev, "serial", &out.Serial)
	var boot int
	if m.property(ctx, d.QDev, "bootindex", &boot) == nil && boot >= 0 {
		out.Boot = &boot
	}
	return out
}

// nics lists what has a hardware address.
func (m *Monitor) nics(ctx context.Context) (out []ConfigDevice, err error) {
	for _, parent := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		children, err := m.children(ctx, parent)
		if err != nil {
			return nil, err
		}
		for _, c := range children {
			device, ok := strings.CutPrefix(c.Type, "child<")
			n := ConfigDevice{Key: c.Name, Device: strings.TrimSuffix(device, ">")}
			if ok && m.property(ctx, parent+"/"+c.Name, "mac", &n.MAC) == nil {
				out = append(out, n)
			}
		}
	}
	return out, nil
}

// firmware reads a flash memory that the guest can write to.
func firmware(d *Device, g *hypervisor.Guest) Firmware {
	f := Firmware{Key: d.Key, File: d.File, Size: d.Info.VirtualSize, ReadOnly: d.ReadOnly}
	if f.ReadOnly {
		return f
	}
	var err error
	if f.Data, err = deflated(d.File); err != nil {
		g.Unprotected = append(g.Unprotected, hypervisor.Unprotected{Key: d.Key, Reason: "the firmware's variables are not kept: " + err.Error()})
	}
	return f
}

func deflated(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestCompression)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(w, io.LimitReader(f, maxNVRAM+1))
	if err == nil {
		err = w.Close()
	}
	if err == nil && (n > maxNVRAM || out.Len() > maxDeflated) {
		err = fmt.Errorf("%s has %d bytes, and %d when they are compressed", path, n, out.Len())
	}
	if err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// secret is what an argument may have that is nobody's business.
var secret = regexp.MustCompile(`(?i)((?:^|,)(?:data|password|passwd|secret|key)=)[^,]*`)

// hushed is a command line without secrets; one that is very long is none.
func hushed(line []string) []string {
	size := 0
	for i := range line {
		line[i] = secret.ReplaceAllString(line[i], "$1***")
		if size += len(line[i]); size > maxCommand {
			return nil
		}
	}
	return line
}
