package selection

import (
	"errors"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// set is a definition that is whole but for what a test changes.
func set(change func(*events.SetDefined)) events.SetDefined {
	f := events.SetDefined{Set: "nightly", Sources: []events.SetSource{{Source: "folder:/srv/*"}}}
	change(&f)
	return f
}

func parse(t *testing.T, change func(*events.SetDefined)) *Definition {
	t.Helper()
	d, err := Parse(set(change), 7)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestGlobsStandForAllOfAText(t *testing.T) {
	for _, c := range []struct {
		glob, text string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "anything/at all", true}, {"web", "web", true}, {"web", "webs", false},
		{"web", "Web", false}, {"web*", "web", true}, {"web*", "web01.raw", true}, {"*.raw", "a.raw", true}, {"*.raw", "a.raw.old", false},
		{"w?b", "web", true}, {"w?b", "wb", false}, {"w?b", "wüb", true}, {"*a*b*c*", "xxaxxbxxcxx", true}, {"*a*b*c*", "xxaxxcxxbxx", false},
		{"*ab", "aab", true}, {"*aab", "aaaab", true}, {"[a]", "a", false}, {"[a]", "[a]", true}, {`\*`, `\x`, true}, {"a*", "a*b", true}, {"**", "", true}, {"?*", "", false},
	} {
		if got := Match(c.glob, c.text); got != c.want {
			t.Errorf("%q for %q: got %v", c.glob, c.text, got)
		}
	}
}

// path.Match has the same answers where both mean the same.
func FuzzMatch(f *testing.F) {
	f.Add("w*b?", "web1")
	f.Add("*a*a*a", "aaaaab")
	f.Fuzz(func(t *testing.T, glob, text string) {
		got := Match(glob, text)
		plain := func(s string) bool { return strings.ToValidUTF8(s, "") == s && !strings.ContainsAny(s, `[]\/`) }
		if !plain(glob) || !plain(text) || len(glob) > 64 || len(text) > 256 {
			return
		}
		if want, err := path.Match(glob, text); err != nil || got != want {
			t.Fatalf("%q for %q: got %v, path.Match %v %v", glob, text, got, want, err)
		}
	})
}

// The time of a glob is bounded by a product, not a power.
func TestGlobsThatAreMeantToTakeLong(t *testing.T) {
	began := time.Now()
	if Match(strings.Repeat("*a", 2000)+"b", strings.Repeat("a", 4000)) {
		t.Error("it has no b")
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestWhatIsNoDefinition(t *testing.T) {
	long := strings.Repeat("x", maxText+1)
	for name, change := range map[string]func(*events.SetDefined){
		"no name":            func(f *events.SetDefined) { f.Set = "" },
		"a dot first":        func(f *events.SetDefined) { f.Set = ".x" },
		"a slash":            func(f *events.SetDefined) { f.Set = "a/b" },
		"a new line":         func(f *events.SetDefined) { f.Set = "a\n" },
		"65 letters":         func(f *events.SetDefined) { f.Set = strings.Repeat("a", 65) },
		"no source":          func(f *events.SetDefined) { f.Sources = nil },
		"an empty source":    func(f *events.SetDefined) { f.Sources[0].Source = "" },
		"a long source":      func(f *events.SetDefined) { f.Sources[0].Source = long },
		"too many sources":   func(f *events.SetDefined) { f.Sources = make([]events.SetSource, maxSources+1) },
		"an empty tag":       func(f *events.SetDefined) { f.Sources[0].Tags = []string{""} },
		"too many tags":      func(f *events.SetDefined) { f.Sources[0].Tags = make([]string, maxTags+1) },
		"no kind":            func(f *events.SetDefined) { f.Selectors = []string{"web"} },
		"an unknown kind":    func(f *events.SetDefined) { f.Selectors = []string{"os:linux"} },
		"no value":           func(f *events.SetDefined) { f.Excludes = []string{"name:"} },
		"no id":              func(f *events.SetDefined) { f.Selectors = []string{"id:web"} },
		"the zero id":        func(f *events.SetDefined) { f.Selectors = []string{"id:" + id.Guest{}.String()} },
		"not in UTF-8":       func(f *events.SetDefined) { f.Selectors = []string{"name:\xff"} },
		"too many selectors": func(f *events.SetDefined) { f.Selectors = slices.Repeat([]string{"name:a"}, maxSelectors+1) },
		"an empty disk":      func(f *events.SetDefined) { f.Disks = []string{""} },
		"a long disk":        func(f *events.SetDefined) { f.ExcludeDisks = []string{long} },
		"an unknown policy":  func(f *events.SetDefined) { f.Policy = map[string]string{"colour": "red"} },
		"a rate of 10 bytes": func(f *events.SetDefined) { f.Policy = map[string]string{"limit-read": "10"} },
		"a rate of words":    func(f *events.SetDefined) { f.Policy = map[string]string{"limit-upload": "fast"} },
		"a codec of a rate":  func(f *events.SetDefined) { f.Policy = map[string]string{"codec": "50MiB"} },
		"an unknown word":    func(f *events.SetDefined) { f.Policy = map[string]string{"scan": "fast"} },
	} {
		if _, err := Parse(set(change), 0); !errors.Is(err, ErrDefinition) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	parse(t, func(f *events.SetDefined) {
		f.Policy = map[string]string{"scan": "auto", "freeze": "require", "codec": "zstd", "domain": "guest", "limit-read": "50MiB", "limit-upload": "none"}
	})
}

var (
	web1 = Candidate{Guest: id.Guest{1}, Name: "web1", Source: "/srv/web1", Tags: []string{"prod"}}
	web2 = Candidate{Guest: id.Guest{2}, Name: "web2", Source: "/srv/web2"}
	mail = Candidate{Guest: id.Guest{3}, Name: "mail", Source: "/srv/mail", Tags: []string{"prod", "old"}}
	lost = Candidate{Guest: id.Guest{4}, Name: "lost", Source: "/srv/lost", Cause: "no permission"}
	all  = []Candidate{web1, web2, mail}
)

// chosen are the names of what was selected, with the selector of each.
func chosen(r Resolved) (out []string) {
	for _, g := range r.Fact.Guests {
		if g.Selected {
			out = append(out, strings.TrimSpace(g.Name+" "+g.By))
		}
	}
	return out
}

func TestSelectorsChoose(t *testing.T) {
	for name, c := range map[string]struct {
		in, out []string
		want    []string
	}{
		"none takes all":      {nil, nil, []string{"web1", "web2", "mail"}},
		"by name":             {[]string{"name:web*"}, nil, []string{"web1 name:web*", "web2 name:web*"}},
		"by tag":              {[]string{"tag:prod"}, nil, []string{"web1 tag:prod", "mail tag:prod"}},
		"a tag is no glob":    {[]string{"tag:pr*"}, nil, nil},
		"by id":               {[]string{"id:" + web2.Guest.String()}, nil, []string{"web2 id:" + web2.Guest.String()}},
		"the first says why":  {[]string{"name:mail", "tag:prod"}, nil, []string{"web1 tag:prod", "mail name:mail"}},
		"an exclude is last":  {[]string{"tag:prod"}, []string{"tag:old"}, []string{"web1 tag:prod"}},
		"all but":             {nil, []string{"name:web?"}, []string{"mail"}},
		"of what was taken":   {[]string{"name:web1"}, []string{"name:*"}, nil},
		"names have colons":   {[]string{"name:a:b"}, nil, nil},
		"an id that is there": {nil, []string{"id:" + web1.Guest.String()}, []string{"web2", "mail"}},
	} {
		r := parse(t, func(f *events.SetDefined) { f.Selectors, f.Excludes = c.in, c.out }).Resolve(all, nil, false)
		if got := chosen(r); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		if len(r.Fact.Guests) != 3 || r.Fact.Defined != 7 || r.Fact.Set != "nightly" || len(r.Unsettled) != 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestWhatHasChangedSinceTheRunBefore(t *testing.T) {
	d := parse(t, func(f *events.SetDefined) {
		f.Selectors = []string{"name:web*", "name:nobody", "id:" + lost.Guest.String()}
	})
	before := []events.GuestChoice{{Guest: web1.Guest, Name: "web1", Selected: true}, {Guest: id.Guest{9}, Name: "gone", Source: "/srv/gone", Selected: true}}
	r := d.Resolve(all, before, true)
	if g := r.Fact.Guests; g[0].New || !g[1].New || g[2].New {
		t.Errorf("new: %+v", g)
	}
	if g := r.Fact.Gone; len(g) != 1 || g[0].Name != "gone" || g[0].Selected {
		t.Errorf("gone: %+v", g)
	}
	if len(r.Idle) != 2 || r.Idle[0].Selector != "name:nobody" || r.Idle[1].Guest != lost.Guest {
		t.Errorf("idle: %+v", r.Idle)
	}
	told := strings.Join(Tell(r.Fact), "\n")
	for _, want := range []string{"protects web2 (", "; not in the run before", "leaves out mail", "no selector takes it", "did not find gone"} {
		if !strings.Contains(told, want) {
			t.Errorf("no %q in\n%s", want, told)
		}
	}
	if first := d.Resolve(all, nil, false); first.Fact.Guests[0].New {
		t.Error("in a first run everything is new, and nothing is worth saying so")
	}
}

// Nobody can say that what could not be looked at is not meant, unless its name is sure.
func TestWhatCouldNotBeLookedAtIsNotPassedOver(t *testing.T) {
	with := func(c Candidate) []Candidate { return append(slices.Clone(all), c) }
	sure := lost
	sure.Certain = true
	byName := parse(t, func(f *events.SetDefined) { f.Selectors = []string{"name:web*"} })
	if r := byName.Resolve(with(lost), nil, false); !slices.Equal(r.Unsettled, []int{3}) {
		t.Errorf("passed over: %+v", r)
	}
	if r := byName.Resolve(with(sure), nil, false); len(r.Unsettled) != 0 {
		t.Errorf("its name is sure: %+v", r)
	}
	out := parse(t, func(f *events.SetDefined) { f.Excludes = []string{"name:lost"} })
	if r := out.Resolve(with(lost), nil, false); len(r.Unsettled) != 0 || r.Fact.Guests[3].Selected {
		t.Errorf("it is excluded: %+v", r)
	}
	every := parse(t, func(*events.SetDefined) {})
	if r := every.Resolve(with(lost), nil, false); !r.Fact.Guests[3].Selected || r.Fact.Guests[3].Cause != "no permission" {
		t.Errorf("it is one of all: %+v", r)
	}
}

func TestDisksAreChosenByGlobs(t *testing.T) {
	d := parse(t, func(f *events.SetDefined) {
		f.Disks, f.ExcludeDisks = []string{"*.vhdx"}, []string{"swap*", "tmp.vhdx"}
	})
	for key, want := range map[string]string{"os.vhdx": "", "swap.vhdx": "excluded by swap*", "tmp.vhdx": "excluded by tmp.vhdx", "data.raw": "none of its disk selectors"} {
		in, why := d.Disk(key)
		if in != (want == "") || !strings.Contains(why, want) {
			t.Errorf("%s: %v %q", key, in, why)
		}
	}
	if in, _ := parse(t, func(*events.SetDefined) {}).Disk("anything"); !in {
		t.Error("a set without disk selectors has all")
	}
}

func TestSentences(t *testing.T) {
	r := parse(t, func(f *events.SetDefined) { f.Selectors = []string{"name:web*"} }).Resolve(all, nil, true)
	r.Fact.Outdone = map[string]string{"codec": "zstd"}
	r.Fact.Sources = []events.SourceListed{{Source: "folder:/srv/*", Guests: 3, Passed: 1, Tags: []string{"prod"}}, {Source: "folder:/nfs/*", Cause: "stale"}}
	if got := Sentence(events.Record{Kind: "RunKept", Fact: events.RunKept{}}); got != "RunKept" {
		t.Errorf("got %q", got)
	}
	if got := Sentence(events.Record{Fact: r.Fact}); !strings.Contains(got, "protects 2 of 3 guests, 2 of them new; 0 are gone") {
		t.Errorf("got %q", got)
	}
	if got := Sentence(events.Record{Fact: events.SetDefined{Set: "old", Removed: true, By: "ann"}}); got != "set old removed by ann" {
		t.Errorf("got %q", got)
	}
	told := strings.Join(Told([]events.Record{{Fact: events.JobStarted{}}, {Fact: r.Fact}}), "\n")
	for _, want := range []string{"listed 3 guests and 1 entries that are none tag:prod", "folder:/nfs/* could not be listed: stale", "says codec zstd, and the command line"} {
		if !strings.Contains(told, want) {
			t.Errorf("no %q in\n%s", want, told)
		}
	}
}

// A set of very many guests fits into one fact, and is told in no more lines than
// people read.
func TestAsManyGuestsAsThereMayBe(t *testing.T) {
	var many []Candidate
	for n := range MaxCandidates {
		many = append(many, Candidate{Guest: id.Guest{1, byte(n), byte(n >> 8)}, Name: strings.Repeat("n", 40), Source: "/srv/" + strings.Repeat("s", 200)})
	}
	r := parse(t, func(*events.SetDefined) {}).Resolve(many, nil, false)
	r.Fact.Gone = r.Fact.Guests
	r.Fact.Sources = slices.Repeat([]events.SourceListed{{Source: "folder:/srv", Tags: slices.Repeat([]string{"t"}, maxTags)}}, maxSources)
	b, err := events.EncodeRecords([]events.Record{events.NewRecord(time.Unix(1, 0), id.Job{1}, r.Fact)})
	if err != nil {
		t.Fatal(err)
	}
	back, err := events.DecodeRecords(b)
	if err != nil || len(back) != 1 || len(back[0].Fact.(events.GuestsSelected).Guests) != MaxCandidates {
		t.Errorf("%d bytes: %v", len(b), err)
	}
	if lines := len(Tell(r.Fact)); lines > maxSources+3*(maxTold+1) {
		t.Errorf("%d lines", lines)
	}
}

// Whatever a fact holds, Parse says if it is a set, and what it takes is answered.
func FuzzParse(f *testing.F) {
	f.Add("nightly", "folder:/srv/*", "prod", "name:web*", "tag:old", "swap*", "scan", "full")
	f.Add("a", "x", "", "id:00000000-0000-0000-0000-000000000001", "name:", "", "domain", "guest")
	f.Fuzz(func(t *testing.T, name, source, tag, in, out, disk, policy, word string) {
		fact := events.SetDefined{Set: name, Sources: []events.SetSource{{Source: source, Tags: []string{tag}}}, Selectors: []string{in}, Excludes: []string{out},
			ExcludeDisks: []string{disk}, Policy: map[string]string{policy: word}}
		d, err := Parse(fact, 1)
		if err != nil {
			if !errors.Is(err, ErrDefinition) {
				t.Fatalf("%v is not ErrDefinition", err)
			}
			return
		}
		d.Disk(disk)
		r := d.Resolve(append(slices.Clone(all), lost), nil, true)
		if len(r.Fact.Guests) != 4 {
			t.Fatalf("%+v", r)
		}
		Tell(r.Fact)
		for _, g := range r.Fact.Guests {
			if g.Selected && g.By != in {
				t.Fatalf("%s was taken by %q, not %q", g.Name, g.By, in)
			}
		}
	})
}
