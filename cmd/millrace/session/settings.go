package session

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
)

// Settings are what every verb may need to know. Each is a flag; what no flag
// says comes from the environment, and what that does not say from the file.
type Settings struct {
	Vault           string // a path or URL
	PasswordFile    string
	PasswordCommand string
	PasswordFD      int // -1 for none
	State           string
	NATS            string // URL of a NATS cluster; "" for a server of the job's own
	Config          string
	Witness         []string // files or folders that hold checkpoints outside of the vault
	AcceptRollback  bool     // go on with a vault that is not the continuation of what was seen
	JSON            bool
	Quiet           bool
}

// AddFlags makes a flag of each setting.
func (s *Settings) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&s.Vault, "vault", "", "vault, as a path or URL")
	f.StringVar(&s.PasswordFile, "password-file", "", "file whose first line is the password")
	f.StringVar(&s.PasswordCommand, "password-command", "", "shell command that prints the password")
	f.IntVar(&s.PasswordFD, "password-fd", -1, "open file descriptor to read the password from")
	f.StringVar(&s.State, "state", "", "folder for caches and what is remembered of vaults (default: the user's, or /var/lib/millrace for root)")
	f.StringVar(&s.NATS, "nats", "", "NATS server to use instead of one of the job's own")
	f.StringVar(&s.Config, "config", "", "YAML file with settings")
	f.StringSliceVar(&s.Witness, "witness", nil, "file or folder elsewhere that keeps the newest checkpoint: the vault is held against it, and it against the vault")
	f.BoolVar(&s.AcceptRollback, "accept-rollback", false, "go on with a vault that was set back or forked; a fact says so for ever")
	f.BoolVar(&s.JSON, "json", false, "print JSON")
	f.BoolVarP(&s.Quiet, "quiet", "q", false, "no progress and no notes")
}

// fromEnvironment are the flags that a variable MILLRACE_<NAME> may set.
var fromEnvironment = []string{"vault", "password-file", "password-command", "state", "nats", "config", "witness"}

// neverFromFile are the flags that must be given by hand each time.
var neverFromFile = []string{"config", "help", "force", "dry-run", "password-fd", "accept-rollback"}

// passwordFlags exclude each other; one given on the command line outdoes
// another one in the environment or the file.
var passwordFlags = []string{"password-file", "password-command", "password-fd"}

// Load fills in, for the verb c that is about to run, what the command line left
// open. lookup is os.LookupEnv.
func (s *Settings) Load(c *cobra.Command, lookup func(string) (string, bool)) error {
	if err := onePassword(c.Flags()); err != nil {
		return err
	}
	set := func(name, value, where string) error {
		f := c.Flags().Lookup(name)
		if f == nil || f.Changed || slices.Contains(passwordFlags, name) && anyChanged(c.Flags(), passwordFlags) {
			return nil
		}
		if err := c.Flags().Set(name, value); err != nil {
			return &fault.Fault{Code: "usage", Op: "read settings", Object: where, Err: fmt.Errorf("%s: %w", name, err)}
		}
		return nil
	}
	// The environment is collected first: a password it names must not keep
	// out the next one it names, which is a mistake worth telling.
	var given []string
	for _, name := range fromEnvironment {
		variable := "MILLRACE_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		value, ok := lookup(variable)
		if !ok || value == "" {
			continue
		}
		if slices.Contains(passwordFlags, name) {
			given = append(given, variable)
		}
		if err := set(name, value, variable); err != nil {
			return err
		}
	}
	if len(given) > 1 {
		return fault.Usage("%s exclude each other", strings.Join(given, " and "))
	}
	if s.Config != "" {
		if err := s.loadFile(c, set); err != nil {
			return err
		}
	}
	if s.State == "" {
		s.State = defaultState()
	}
	// Messages name files in it, and their reader may be in another folder.
	if abs, err := filepath.Abs(s.State); err == nil {
		s.State = abs
	}
	return nil
}

// loadFile reads the file: a map of flag names to values, in which the name of a
// verb holds a map for that verb alone. What is no flag is an error.
func (s *Settings) loadFile(c *cobra.Command, set func(name, value, where string) error) error {
	bad := func(err error) error {
		return &fault.Fault{Code: "usage", Op: "read settings", Object: s.Config, Err: err}
	}
	text, err := os.ReadFile(s.Config)
	if err != nil {
		return bad(err)
	}
	var all map[string]any
	if err := yaml.UnmarshalWithOptions(text, &all, yaml.Strict()); err != nil {
		return bad(err)
	}
	root := c.Root()
	type entry struct{ name, value string }
	var general, special []entry
	for key, value := range all {
		if section, ok := value.(map[string]any); ok {
			verb, rest, err := root.Find([]string{key})
			if err != nil || verb == root || len(rest) > 0 {
				return bad(fmt.Errorf("there is no command %q", key))
			}
			for name, value := range section {
				text, err := scalar(verb.LocalFlags(), name, value)
				if err != nil {
					return bad(fmt.Errorf("%s: %w", key, err))
				}
				if verb == c {
					special = append(special, entry{name, text})
				}
			}
			continue
		}
		text, err := scalar(root.PersistentFlags(), key, value)
		if err != nil {
			return bad(err)
		}
		general = append(general, entry{key, text})
	}
	for _, e := range append(special, general...) {
		if err := set(e.name, e.value, s.Config); err != nil {
			return err
		}
	}
	return nil
}

// scalar checks that name is a flag that a file may set and returns the value as
// it would stand on a command line.
func scalar(flags *pflag.FlagSet, name string, value any) (string, error) {
	if flags.Lookup(name) == nil {
		return "", fmt.Errorf("unknown setting %q", name)
	}
	if slices.Contains(neverFromFile, name) {
		return "", fmt.Errorf("%q can be given on the command line only", name)
	}
	switch v := value.(type) {
	case string, bool, int, int64, uint64, float64:
		return fmt.Sprint(v), nil
	case []any:
		var parts []string
		for _, each := range v {
			parts = append(parts, fmt.Sprint(each))
		}
		return strings.Join(parts, ","), nil
	}
	return "", fmt.Errorf("%q has no value that makes sense", name)
}

func anyChanged(f *pflag.FlagSet, names []string) bool {
	return slices.ContainsFunc(names, f.Changed)
}

func onePassword(f *pflag.FlagSet) error {
	n := 0
	for _, name := range passwordFlags {
		if f.Changed(name) {
			n++
		}
	}
	if n > 1 {
		return fault.Usage("--%s exclude each other", strings.Join(passwordFlags, ", --"))
	}
	return nil
}

// defaultState is where this user's caches and memories lie.
func defaultState() string {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "millrace")
	}
	if runtime.GOOS == "windows" {
		return filepath.Join(os.Getenv("ProgramData"), "millrace")
	}
	if os.Geteuid() == 0 {
		return "/var/lib/millrace"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "millrace")
	}
	return filepath.Join(home, ".local", "state", "millrace")
}

// VaultLocation returns the vault that was asked for.
func (s *Settings) VaultLocation() (string, error) {
	if s.Vault == "" {
		return "", &fault.Fault{Code: "usage", Op: "find vault", Err: errors.New("none was named"),
			Remedy: "give --vault, or set MILLRACE_VAULT"}
	}
	return s.Vault, nil
}
