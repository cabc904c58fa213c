// Package instant reads the times that people write to name a point or a moment of the
// vault. [Parse] takes RFC 3339 and what is left of it when its end is cut off, and gives
// the last instant that is meant, so that a time that was printed to the second finds
// what it was printed for. Which zone a time without one is in is the caller's to say. The
// package knows no clock.
package instant

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrForm: the text is no time.
var ErrForm = errors.New("not a time like 2026-11-22T16:07:15Z or 2026-11-22")

// Parse understands RFC 3339 and its shorter forms down to a date. It returns
// the last instant that is meant: points are printed to the second, and what is
// printed must find the point.
func Parse(text string, loc *time.Location) (time.Time, error) {
	text = strings.Replace(text, " ", "T", 1)
	second := func(t time.Time) time.Time { return t.Add(time.Second) }
	if strings.ContainsAny(text, ".,") { // the layouts take a fraction unasked
		second = func(t time.Time) time.Time { return t.Add(time.Microsecond) }
	}
	for _, form := range []struct {
		layout  string
		through func(time.Time) time.Time // the first instant that is not meant
	}{
		{time.RFC3339, second},
		{"2006-01-02T15:04:05", second},
		{"2006-01-02T15:04", func(t time.Time) time.Time { return t.Add(time.Minute) }},
		{"2006-01-02", func(t time.Time) time.Time { return t.AddDate(0, 0, 1) }},
	} {
		if t, err := time.ParseInLocation(form.layout, text, loc); err == nil {
			return form.through(t).Add(-time.Microsecond), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q: %w", text, ErrForm)
}
