package machine

import (
	"context"
	"strings"
)

// child is an element of QEMU's object model.
type child struct {
	Name string
	Type string
}

// children lists what is below a path of the object model.
func (m *Monitor) children(ctx context.Context, path string) (out []child, err error) {
	err = m.Do(ctx, "qom-list", Args{"path": path}, &out)
	return out, err
}

// property reads a property of an object.
func (m *Monitor) property(ctx context.Context, path, name string, out any) error {
	return m.Do(ctx, "qom-get", Args{"path": path, "property": name}, out)
}

// unixPath takes the path out of how QEMU names a listening Unix socket, such as
// "disconnected:unix:/run/agent.sock,server=on". It is empty for all else.
func unixPath(filename string) string {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(filename, "disconnected:"), "unix:")
	if !ok || !strings.Contains(rest, "server=on") {
		return ""
	}
	path, _, _ := strings.Cut(rest, ",")
	if !strings.HasPrefix(path, "/") {
		return ""
	}
	return path
}
