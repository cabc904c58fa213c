package peers

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Adapter says how a program is called. Its commands are lists of arguments, without
// a shell, in which these words are replaced:
//
//	{image}    the disk image, the one file in {folder}
//	{folder}   the folder of it
//	{repo}     where the program is to store to; it exists and is empty at init
//	{home}     a folder for its caches and settings
//	{out}      where it is to restore to, the current folder of restore
//	{password} of the repository
//	{phase}    full, unchanged, reread or changed: the name for a snapshot, if it needs one
type Adapter struct {
	Name     string   `yaml:"name" json:"name"`
	Env      []string `yaml:"env" json:"env,omitempty"` // NAME=VALUE
	Init     []string `yaml:"init" json:"init"`
	Backup   []string `yaml:"backup" json:"backup"`
	Reread   []string `yaml:"reread" json:"reread,omitempty"` // a backup that does not trust times; default: backup
	Restore  []string `yaml:"restore" json:"restore"`         // of the last backup
	Restored string   `yaml:"restored" json:"restored"`       // the image after that
}

// Check returns nil if the adapter can be used.
func (a Adapter) Check() error {
	if !regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,30}$`).MatchString(a.Name) {
		return fmt.Errorf("name %q: small letters, digits, dots and dashes", a.Name)
	}
	for what, command := range map[string][]string{"init": a.Init, "backup": a.Backup, "restore": a.Restore} {
		if len(command) == 0 {
			return fmt.Errorf("%s: no command for %s", a.Name, what)
		}
	}
	if a.Restored == "" {
		return fmt.Errorf("%s: it does not say where the restored image is", a.Name)
	}
	known := []string{"{image}", "{folder}", "{repo}", "{home}", "{out}", "{password}", "{phase}"}
	word := regexp.MustCompile(`\{[a-z]*\}`)
	for _, text := range slices.Concat(a.Env, a.Init, a.Backup, a.Reread, a.Restore, []string{a.Restored}) {
		for _, w := range word.FindAllString(text, -1) {
			if !slices.Contains(known, w) {
				return fmt.Errorf("%s: %q has %s, which is none of %s", a.Name, text, w, strings.Join(known, " "))
			}
		}
	}
	return nil
}

// Phases in their order.
func phases() []string { return []string{full, unchanged, reread, changed, restore} }

const (
	full      = "full"
	unchanged = "unchanged"
	reread    = "reread"
	changed   = "changed"
	restore   = "restore"
)

const password = "measured, not kept"

// command is what is called for a phase.
func (a Adapter) command(phase string) []string {
	switch {
	case phase == restore:
		return a.Restore
	case phase == reread && len(a.Reread) > 0:
		return a.Reread
	}
	return a.Backup
}

// own is Millrace's name in results.
const own = "millrace"

// builtin describes the programs that are always tried.
func builtin(millrace string) []Adapter {
	borg := func(more ...string) []string {
		return append(append([]string{"borg", "create", "--compression", "lz4"}, more...), "::{phase}", "{image}")
	}
	return []Adapter{
		{
			Name: own, Restored: "{out}/image.raw",
			Env: []string{
				"MILLRACE_VAULT={repo}", "MILLRACE_STATE={home}", "MILLRACE_PASSWORD_COMMAND=echo {password}",
				"MILLRACE_PASSWORD_FILE=", "MILLRACE_NATS=", "MILLRACE_CONFIG=",
			},
			Init:    []string{millrace, "init", "--quiet"},
			Backup:  []string{millrace, "backup", "--quiet", "--json", "{image}"},
			Restore: []string{millrace, "restore", "latest", "--quiet", "--to", "{out}/image.raw"},
		},
		{
			Name: "restic", Restored: "{out}{image}",
			Env:     []string{"RESTIC_REPOSITORY={repo}", "RESTIC_PASSWORD={password}", "RESTIC_CACHE_DIR={home}"},
			Init:    []string{"restic", "init", "--quiet"},
			Backup:  []string{"restic", "backup", "--quiet", "{image}"},
			Reread:  []string{"restic", "backup", "--quiet", "--force", "{image}"},
			Restore: []string{"restic", "restore", "latest", "--quiet", "--target", "{out}"},
		},
		{
			Name: "borg", Restored: "{out}{image}",
			Env:     []string{"BORG_REPO={repo}", "BORG_PASSPHRASE={password}", "BORG_BASE_DIR={home}", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=no"},
			Init:    []string{"borg", "init", "--encryption=repokey-blake2"},
			Backup:  borg(),
			Reread:  borg("--files-cache=disabled"),
			Restore: []string{"borg", "extract", "--sparse", "::changed"},
		},
	}
}

// place is where a program works.
type place struct {
	Adapter
	image, repo, home, out string
}

func newPlace(a Adapter, base, image string) *place {
	at := func(name string) string { return filepath.Join(base, a.Name, name) }
	return &place{Adapter: a, image: image, repo: at("repo"), home: at("home"), out: at("out")}
}

// fill replaces the words.
func (p *place) fill(phase string, texts ...string) (out []string) {
	r := strings.NewReplacer("{image}", p.image, "{folder}", filepath.Dir(p.image), "{repo}", p.repo, "{home}", p.home, "{out}", p.out, "{password}", password, "{phase}", phase)
	for _, t := range texts {
		out = append(out, r.Replace(t))
	}
	return out
}
