package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build is what this program was made from, as the go command recorded it.
type build struct {
	Version string `json:"version"` // of the module; "devel" from a work tree
	Commit  string `json:"commit"`
	Changed bool   `json:"changed"` // the work tree was not what the commit says
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func version() build {
	b := build{Version: "devel", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.modified":
			b.Changed = s.Value == "true"
		}
	}
	return b
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := version()
			if a.Settings.JSON {
				a.PrintJSON(b)
				return nil
			}
			fmt.Fprintf(a.Stdout, "millrace %s %s %s %s/%s\n", b.Version, cmp.Or(b.Commit, "no-commit"), b.Go, b.OS, b.Arch)
			return nil
		},
	}
}
