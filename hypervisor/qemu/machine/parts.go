package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace-backup/millrace/hypervisor/qemu/qmp"
)

// Node is a block node as QEMU lists it.
type Node struct {
	Name    string   `json:"node-name"`
	Bitmaps []Bitmap `json:"dirty-bitmaps"`
}

func (m *Monitor) Nodes(ctx context.Context) (out []Node, err error) {
	err = m.Do(ctx, "query-named-block-nodes", Args{"flat": true}, &out)
	return out, err
}

// Ours begins the name of everything we make in QEMU. What a job makes is called
// Ours, its tag, and what it is; the bitmap that says what has changed ends in ChangesKind.
const (
	Ours        = "millrace-"
	ChangesKind = "-changes"
)

// Own reports whether a name begins as Ours of one job do.
func Own(name, prefix string) bool { return strings.HasPrefix(name, prefix) }

// TagOf is the tag of the job that made something, which is called millrace-TAG-...
func TagOf(name string) (string, bool) {
	rest, ok := strings.CutPrefix(name, Ours)
	if !ok {
		return "", false
	}
	tag, _, ok := strings.Cut(rest, "-")
	return tag, ok && len(tag) == 8
}

// Tags lists the jobs that have exports, nodes or files in QEMU.
func (m *Monitor) Tags(ctx context.Context) (out []string, err error) {
	add := func(name string) {
		if tag, ok := TagOf(name); ok && !slices.Contains(out, tag) {
			out = append(out, tag)
		}
	}
	exports, err := m.Exports(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range exports {
		add(e)
	}
	nodes, err := m.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		add(n.Name)
		for _, b := range n.Bitmaps {
			if strings.HasSuffix(b.Name, ChangesKind) {
				add(b.Name)
			}
		}
	}
	sets, err := m.FDSets(ctx)
	for _, s := range sets {
		for _, f := range s.FDs {
			add(f.Opaque + "-")
		}
	}
	return out, err
}

func (m *Monitor) Exports(ctx context.Context) (ids []string, err error) {
	var out []struct{ ID string }
	if err := m.Do(ctx, "query-block-exports", nil, &out); err != nil {
		return nil, err
	}
	for _, e := range out {
		ids = append(ids, e.ID)
	}
	return ids, nil
}

type FDSet struct {
	ID  int `json:"fdset-id"`
	FDs []struct {
		FD     int
		Opaque string
	}
}

func (m *Monitor) FDSets(ctx context.Context) (out []FDSet, err error) {
	err = m.Do(ctx, "query-fdsets", nil, &out)
	return out, err
}

// RemoveExports ends exports, readers or not, and waits until they are gone.
func (m *Monitor) RemoveExports(ctx context.Context, prefix string) error {
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		exports, err := m.Exports(ctx)
		if err != nil {
			return err
		}
		left := 0
		for _, e := range exports {
			if !Own(e, prefix) {
				continue
			}
			left++
			err := m.Do(ctx, "block-export-del", Args{"id": e, "mode": "hard"}, nil)
			var refused *qmp.Error
			if err != nil && !errors.As(err, &refused) { // it may be on its way out
				return err
			}
		}
		if left == 0 {
			return nil
		}
		if time.Since(begun) > 10*time.Second {
			return fmt.Errorf("%d exports do not end", left)
		}
	}
}

// RemoveFilters puts the guest's own nodes back in place of our filters. Below are those of
// devices by their paths; QEMU is asked for others.
func (m *Monitor) RemoveFilters(ctx context.Context, prefix string, below map[string]string) error {
	var media []medium
	if err := m.Do(ctx, "query-block", nil, &media); err != nil {
		return err
	}
	for i := range media {
		in := media[i].Inserted
		if in == nil || !Own(in.Node, prefix) {
			continue
		}
		node := below[media[i].QDev]
		if node == "" {
			var err error
			if node, err = m.below(ctx, in.Node); err != nil {
				return err
			}
		}
		if err := m.Do(ctx, "qom-set", Args{"path": media[i].QDev, "property": "drive", "value": node}, nil); err != nil {
			return err
		}
	}
	return nil
}

// below is the node that a filter is before.
func (m *Monitor) below(ctx context.Context, filter string) (string, error) {
	var graph struct {
		Nodes []struct {
			ID   uint64
			Name string
		}
		Edges []struct {
			Parent, Child uint64
			Name          string
		}
	}
	if err := m.Do(ctx, "x-debug-query-block-graph", nil, &graph); err != nil {
		return "", err
	}
	names := map[uint64]string{}
	for _, n := range graph.Nodes {
		names[n.ID] = n.Name
	}
	for _, e := range graph.Edges {
		if names[e.Parent] == filter && e.Name == "file" && names[e.Child] != "" {
			return names[e.Child], nil
		}
	}
	return "", fmt.Errorf("QEMU does not say what is below %s", filter)
}

// RemoveBitmap removes a bitmap, which may be gone, with its node too.
func (m *Monitor) RemoveBitmap(ctx context.Context, node, name string) error {
	err := m.Do(ctx, "block-dirty-bitmap-remove", Args{"node": node, "name": name}, nil)
	var refused *qmp.Error
	if errors.As(err, &refused) {
		present, look := m.hasBitmap(ctx, node, name)
		if look != nil || !present {
			return look
		}
	}
	return err
}

func (m *Monitor) hasBitmap(ctx context.Context, node, name string) (bool, error) {
	nodes, err := m.Nodes(ctx)
	if err != nil {
		return false, err
	}
	for _, n := range nodes {
		if n.Name != node {
			continue
		}
		for _, b := range n.Bitmaps {
			if b.Name == name {
				return true, nil
			}
		}
	}
	return false, nil
}

// AgentSocket finds the socket of the guest agent's port, or says why there is nobody to
// ask.
func (m *Monitor) AgentSocket(ctx context.Context) (path, why string, err error) {
	label := ""
	for _, parent := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		children, err := m.children(ctx, parent)
		if err != nil {
			return "", "", err
		}
		for _, c := range children {
			if c.Type != "child<virtserialport>" && c.Type != "child<isa-serial>" {
				continue
			}
			var name string
			if m.property(ctx, parent+"/"+c.Name, "name", &name) == nil && name == "org.qemu.guest_agent.0" {
				if err := m.property(ctx, parent+"/"+c.Name, "chardev", &label); err != nil {
					return "", "", err
				}
			}
		}
	}
	if label == "" {
		return "", "the guest has no port for an agent (org.qemu.guest_agent.0)", nil
	}
	var chardevs []struct {
		Label    string
		Filename string
		Open     bool `json:"frontend-open"`
	}
	if err := m.Do(ctx, "query-chardev", nil, &chardevs); err != nil {
		return "", "", err
	}
	for _, c := range chardevs {
		if c.Label != label {
			continue
		}
		if path = unixPath(c.Filename); path == "" {
			return "", fmt.Sprintf("the port of the guest agent leads to %s, which is no socket that we can ask at", c.Filename), nil
		}
		if !c.Open {
			return "", "no agent runs in the guest", nil
		}
		return path, "", nil
	}
	return "", "the port of the guest agent is connected with nothing", nil
}
