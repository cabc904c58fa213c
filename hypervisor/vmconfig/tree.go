package vmconfig

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// tree is the content of a configuration, whatever form it came in.
type tree struct {
	root    node
	remarks []string
	text    int64 // bytes of values that may still be kept
}

// node is a name with a value or with nodes below it.
type node struct {
	name  string
	value string // numbers in decimal, truth as "true" and "false"
	below []*node
}

const (
	maxNodes = 1 << 17
	maxDepth = 32
	// Every element of a configuration has an attribute at most.
	maxEquals = 2 * maxNodes
	maxDisks  = 512 // Hyper-V takes 4 of IDE and 4 times 64 of SCSI
	maxText   = 4096
	maxName   = 256
	// Hyper-V has 4 SCSI controllers at most; the rest of a hostile list is left out.
	maxControllers = 64
	textFactor     = 4 // bytes of values that are kept, for each byte of the file
)

// at is the node below n that the names lead to, or an empty one.
func (n *node) at(names ...string) *node {
	for _, name := range names {
		i := slices.IndexFunc(n.below, func(b *node) bool { return strings.EqualFold(b.name, name) })
		if i < 0 {
			return &node{}
		}
		n = n.below[i]
	}
	return n
}

// number is the value as a number that is not negative, or 0.
func (n *node) number() int64 {
	v, err := strconv.ParseInt(strings.TrimSpace(n.value), 10, 64)
	if err != nil {
		return 0
	}
	return max(v, 0)
}

func (n *node) truth() bool { return strings.EqualFold(strings.TrimSpace(n.value), "true") }

// line is the value as one line of text of at most most bytes.
func (n *node) line(most int) string {
	out := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, n.value)
	if len(out) > most {
		out = strings.ToValidUTF8(out[:most], "")
	}
	return strings.TrimSpace(out)
}

// numbered are the nodes below that are called prefix and a number, by number.
func (n *node) numbered(prefix string) (out []numbered) {
	for _, b := range n.below {
		rest, ok := strings.CutPrefix(strings.ToLower(b.name), prefix)
		if i, err := strconv.ParseUint(rest, 10, 16); ok && err == nil {
			out = append(out, numbered{int(i), b})
		}
	}
	slices.SortStableFunc(out, func(a, b numbered) int { return cmp.Compare(a.number, b.number) })
	return out
}

type numbered struct {
	number int
	*node
}

// machine makes sense of the names.
func (t *tree) machine() (Machine, error) {
	c := t.root.at("configuration")
	p, s := c.at("properties"), c.at("settings")
	if len(p.below) == 0 && len(s.below) == 0 {
		return Machine{}, fmt.Errorf("%w: it has neither properties nor settings of a machine", ErrForm)
	}
	bank := s.at("memory", "bank")
	m := Machine{
		Name: p.at("name").line(maxName), Kind: p.at("type_id").line(maxName), Processors: s.at("processors", "count").number(),
		Memory: bank.at("size").number(), Dynamic: bank.at("dynamic_memory_enabled").truth(), Remarks: t.remarks,
	}
	if m.Dynamic {
		m.MemoryMin, m.MemoryMax = bank.at("reservation").number(), bank.at("limit").number()
	}
	m.ID = guid(s.at("global", "logical_id").value)
	if m.ID == "" {
		m.ID = guid(p.at("global_id").value)
	}
	if v := p.at("version").number(); v > 0 {
		m.Version = fmt.Sprintf("%d.%d", v>>8, v&0xFF)
	}
	if v := p.at("subtype"); v.value != "" {
		m.Generation = int(min(v.number(), 8)) + 1
	}
	for _, device := range c.below {
		m.SecureBoot = m.SecureBoot || device.at("secure_boot_enabled").truth()
	}
	m.Disks = disks(c)
	if len(m.Disks) > maxDisks {
		return Machine{}, fmt.Errorf("%w: %d disks, a machine has at most %d", ErrForm, len(m.Disks), maxDisks)
	}
	return m, nil
}

// Devices of which the manifest tells, by their kind.
const (
	ideController  = "83f8638b-8dca-4152-9eda-2ca8b33039b4"
	scsiController = "d422512d-2bf2-4752-809d-7b82b5fcb1b4"
)

// disks lists what is at the controllers: the manifest names each controller's node,
// which is the only one of its kind where it does not.
func disks(c *node) (out []Disk) {
	manifest := c.at("manifest").numbered("vdev")
	for _, kind := range []struct{ name, id string }{{"IDE", ideController}, {"SCSI", scsiController}} {
		var instances []string
		for _, device := range manifest {
			instance := guid(device.at("instance").value)
			if guid(device.at("device").value) == kind.id && instance != "" && len(instances) < maxControllers && !slices.Contains(instances, instance) {
				instances = append(instances, instance)
			}
		}
		if !slices.Contains(instances, kind.id) {
			instances = append(instances, kind.id)
		}
		first := 0 // number of the instance's first controller
		for _, instance := range instances {
			controllers := c.at("_" + instance + "_").numbered("controller")
			for _, controller := range controllers {
				for _, drive := range controller.numbered("drive") {
					d := Disk{
						Controller: kind.name, Number: first + controller.number, Location: drive.number,
						Type: strings.ToUpper(drive.at("type").line(maxName)), Path: drive.at("pathname").line(maxText),
					}
					if !slices.Contains([]string{"", "NONE", "ISO", "DVD", "VFD"}, d.Type) {
						out = append(out, d)
					}
				}
			}
			if n := len(controllers); n > 0 {
				first += controllers[n-1].number + 1
			}
		}
	}
	return out
}

// guid is a GUID in lower case without braces, or "".
func guid(s string) string {
	s = strings.ToLower(strings.Trim(strings.TrimSpace(s), "{}"))
	if len(s) != 36 {
		return ""
	}
	for i, r := range s {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (r == '-') || !dash && !strings.ContainsRune("0123456789abcdef", r) {
			return ""
		}
	}
	return s
}
