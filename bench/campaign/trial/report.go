package trial

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Report is what came of a run, with what earlier runs of it had done.
type Report struct {
	Campaign Campaign
	Options  Options
	Results  []Result // in order of trials
	Failed   int
	Spent    time.Duration // in trials
}

func report(c Campaign, o Options, j *journal) Report {
	r := Report{Campaign: c, Options: o}
	for _, n := range slices.Sorted(maps.Keys(j.done)) {
		one := j.done[n]
		if n >= o.Count && o.Only < 0 || o.Only >= 0 && n != o.Only {
			continue
		}
		r.Results = append(r.Results, one)
		r.Spent += time.Duration(one.Millis) * time.Millisecond
		if one.Error != "" {
			r.Failed++
		}
	}
	return r
}

// Kinds says how many trials were of which kind, the most frequent first.
func (r Report) Kinds() string {
	count, checks := map[string]int{}, 0
	for _, one := range r.Results {
		checks += one.Checks
		for _, k := range one.Kinds {
			count[k]++
		}
	}
	names := slices.SortedFunc(maps.Keys(count), func(a, b string) int { return cmp.Or(count[b]-count[a], strings.Compare(a, b)) })
	var words []string
	for _, k := range names {
		words = append(words, fmt.Sprintf("%s %d", k, count[k]))
	}
	if checks > 0 {
		words = append(words, fmt.Sprintf("%d states checked", checks))
	}
	return strings.Join(words, ", ")
}

// Line is the report as a row of the page of results.
func (r Report) Line() string {
	what := r.Kinds()
	if r.Failed > 0 {
		var numbers []string
		for _, one := range r.Results {
			if one.Error != "" && len(numbers) < 10 {
				numbers = append(numbers, fmt.Sprint(one.Trial))
			}
		}
		what += "; FAILED: trials " + strings.Join(numbers, " ")
	}
	return fmt.Sprintf("| %s | %s | %s | %d | %d | %d | %s | %s |\n", r.Options.Now().UTC().Format("2006-01-02"), r.Options.Commit, r.Options.Machine,
		r.Options.Seed, len(r.Results), r.Failed, r.Spent.Round(time.Second), what)
}

// Append adds the report's line to the page of its campaign in a folder, and makes
// the page if there is none.
func (r Report) Append(folder string) error {
	page := filepath.Join(folder, r.Campaign.Name+".md")
	_, err := os.Stat(page)
	text := r.Line()
	if errors.Is(err, fs.ErrNotExist) {
		text = fmt.Sprintf("# Campaign %s\n\n%s\n\nRepeat a run with `go run ./bench/campaign -run %s -seed SEED`, one trial of it with `-only NUMBER`.\n\n"+
			"| date | commit | machine | seed | trials | failed | time in trials | of which kind |\n|---|---|---|---|---|---|---|---|\n%s",
			r.Campaign.Name, r.Campaign.About, r.Campaign.Name, text)
	}
	f, err := os.OpenFile(page, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("add to results: %w", err)
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("add to results %s: %w", page, err)
	}
	return nil
}
