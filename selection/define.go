package selection

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// ErrDefinition marks a definition that makes no sense to this program. A later one
// may have made it.
var ErrDefinition = errors.New("not a backup set that this version understands")

// What a set may have at most.
const (
	maxSources   = 256
	maxSelectors = 1024 // of each kind
	maxTags      = 64   // of a source
	maxText      = 4096 // bytes of a source or selector
)

// Policy is something that a set may settle for its jobs, and the words for it; none
// for what is a rate (see [Rate]).
type Policy struct {
	Name  string
	Words []string
}

// Policies are the ones there are. Names and words are recorded, so they are only
// ever added.
func Policies() []Policy {
	return []Policy{
		{"scan", []string{"auto", "full", "incremental", "differential"}},
		{"freeze", []string{"require", "prefer", "never"}},
		{"codec", []string{"auto", "minlz", "s2", "lz4", "zstd", "none"}},
		{"domain", []string{"vault", "guest"}},
		{"limit-read", nil},
		{"limit-upload", nil},
	}
}

// Says is what may be said of the policy.
func (p Policy) Says() string {
	if p.Words == nil {
		return "a rate as 50MiB (bytes a second), or none"
	}
	return strings.Join(p.Words, ", ")
}

func (p Policy) check(word string) error {
	_, err := Rate(word)
	if p.Words == nil && err == nil || slices.Contains(p.Words, word) {
		return nil
	}
	return fmt.Errorf("policy %s %.80q: it is one of %s: %w", p.Name, word, p.Says(), ErrDefinition)
}

// leastRate is no wish for a limit but a letter forgotten, as in 10 for 10MiB.
const leastRate = 64 << 10

// Rate is bytes a second, as 50MiB or 100MB/s; 0 for the word none.
func Rate(text string) (int64, error) {
	if text == "none" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(strings.TrimSuffix(text, "/s"))
	if err != nil || n < leastRate || n > 1<<40 {
		return 0, fmt.Errorf("rate %.80q: it is none, or 64KiB or more a second, as 50MiB: %w", text, ErrDefinition)
	}
	return int64(n), nil
}

// Words are those of a policy; none if there is no such policy.
func Words(policy string) []string {
	for _, p := range Policies() {
		if p.Name == policy {
			return p.Words
		}
	}
	return nil
}

// Name tells whether a set may be called so: up to 64 letters, digits, dots, dashes
// and underscores of ASCII, the first a letter or digit.
func Name(name string) error {
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`).MatchString(name) {
		return fmt.Errorf("name %.80q: it has 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter or digit: %w", name, ErrDefinition)
	}
	return nil
}

// selector takes candidates.
type selector struct {
	text, kind, value string
	guest             id.Guest
}

func parseSelector(text string) (s selector, err error) {
	kind, value, _ := strings.Cut(text, ":")
	s = selector{text: text, kind: kind, value: value}
	switch {
	case len(text) > maxText || !utf8.ValidString(text):
		return s, fmt.Errorf("a selector of %d bytes, or not in UTF-8: %w", len(text), ErrDefinition)
	case value == "":
		return s, fmt.Errorf("selector %q: it is name:GLOB, tag:TAG or id:UUID: %w", text, ErrDefinition)
	case kind == "id":
		if err := s.guest.UnmarshalText([]byte(value)); err != nil || s.guest.IsZero() {
			return s, fmt.Errorf("selector %q: the id of a guest is a UUID, as millrace points --json has it: %w", text, ErrDefinition)
		}
	case kind != "name" && kind != "tag":
		return s, fmt.Errorf("selector %q: it is name:GLOB, tag:TAG or id:UUID: %w", text, ErrDefinition)
	}
	return s, nil
}

func (s *selector) takes(c *Candidate) bool {
	switch s.kind {
	case "id":
		return c.Guest == s.guest
	case "tag":
		return slices.Contains(c.Tags, s.value)
	}
	return Match(s.value, c.Name)
}

// Definition is a checked set.
type Definition struct {
	events.SetDefined
	Position           uint64 // of the fact
	includes, excludes []selector
}

// Parse checks the definition that is at a position of the ledger, 0 if it is in none
// yet. What is wrong with it satisfies ErrDefinition and says which part.
func Parse(f events.SetDefined, position uint64) (*Definition, error) {
	d := &Definition{SetDefined: f, Position: position}
	if err := Name(f.Set); err != nil {
		return nil, err
	}
	if err := checkSources(f.Sources); err != nil {
		return nil, err
	}
	for _, part := range []struct {
		texts []string
		to    *[]selector
	}{{f.Selectors, &d.includes}, {f.Excludes, &d.excludes}} {
		if len(part.texts) > maxSelectors {
			return nil, fmt.Errorf("%d selectors, more than %d: %w", len(part.texts), maxSelectors, ErrDefinition)
		}
		for _, text := range part.texts {
			s, err := parseSelector(text)
			if err != nil {
				return nil, err
			}
			*part.to = append(*part.to, s)
		}
	}
	for _, globs := range [][]string{f.Disks, f.ExcludeDisks} {
		if len(globs) > maxSelectors || slices.ContainsFunc(globs, func(g string) bool { return g == "" || len(g) > maxText }) {
			return nil, fmt.Errorf("disks: %d globs, more than %d, or one that is empty or longer than %d bytes: %w", len(globs), maxSelectors, maxText, ErrDefinition)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Policy)) {
		at := slices.IndexFunc(Policies(), func(p Policy) bool { return p.Name == name })
		if at < 0 {
			return nil, fmt.Errorf("policy %.80q: there is none of this name: %w", name, ErrDefinition)
		}
		if err := Policies()[at].check(f.Policy[name]); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func checkSources(sources []events.SetSource) error {
	if len(sources) == 0 || len(sources) > maxSources {
		return fmt.Errorf("%d sources: a set has 1 to %d: %w", len(sources), maxSources, ErrDefinition)
	}
	for _, s := range sources {
		if s.Source == "" || len(s.Source) > maxText || len(s.Tags) > maxTags {
			return fmt.Errorf("source %.80q: it is empty or longer than %d bytes, or has more than %d tags: %w", s.Source, maxText, maxTags, ErrDefinition)
		}
		for _, t := range s.Tags {
			if t == "" || len(t) > maxText || !utf8.ValidString(t) {
				return fmt.Errorf("tag %.80q of source %.80q: it is empty, too long or not in UTF-8: %w", t, s.Source, ErrDefinition)
			}
		}
	}
	return nil
}

// Match tells whether a glob stands for all of text.
func Match(glob, text string) bool {
	g, t := []rune(glob), []rune(text)
	i, j := 0, 0
	star, mark := -1, 0 // the last * and how far it reaches
	for j < len(t) {
		switch {
		// A * of the glob is a wildcard even where the text has one, so it goes first.
		case i < len(g) && g[i] == '*':
			star, mark = i, j
			i++
		case i < len(g) && (g[i] == '?' || g[i] == t[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(g) && g[i] == '*' {
		i++
	}
	return i == len(g)
}

// Tags are those that the selectors of the set look for.
func (d *Definition) Tags() (out []string) {
	for _, s := range slices.Concat(d.includes, d.excludes) {
		if s.kind == "tag" {
			out = append(out, s.value)
		}
	}
	return out
}

// HasWildcard tells whether a glob can stand for more than itself.
func HasWildcard(glob string) bool { return strings.ContainsAny(glob, "*?") }

// Disk tells whether a disk of a selected guest is in the set, and if not, why.
func (d *Definition) Disk(key string) (in bool, why string) {
	matches := func(glob string) bool { return Match(glob, key) }
	if at := slices.IndexFunc(d.ExcludeDisks, matches); at >= 0 {
		return false, fmt.Sprintf("left out by set %s: excluded by %s", d.Set, d.ExcludeDisks[at])
	}
	if len(d.Disks) > 0 && !slices.ContainsFunc(d.Disks, matches) {
		return false, fmt.Sprintf("left out by set %s: none of its disk selectors takes it", d.Set)
	}
	return true, ""
}
