package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/millrace-backup/millrace/audit/tally"
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
)

// accountJSON is the form that scripts rely on; see MarshalJSON.
type accountJSON struct {
	Job        id.Job            `json:"job"`
	Outcome    string            `json:"outcome"`
	Facts      []json.RawMessage `json:"facts"`
	Stages     []stageJSON       `json:"stages"`
	Verb       string            `json:"verb"`
	Began      time.Time         `json:"began"`
	Ended      time.Time         `json:"ended"`
	Duration   float64           `json:"duration_s"`
	Cause      string            `json:"cause"`
	FencedBy   []id.Job          `json:"fenced_by"`
	Guests     []guestJSON       `json:"guests"`
	Bottleneck bottleneckJSON    `json:"bottleneck"`
	Findings   []string          `json:"findings"`
	Totals     []tally.Form      `json:"stage_totals"`
}

type stageJSON struct {
	Stage       string  `json:"stage"`
	PID         int     `json:"pid"`
	Busy        float64 `json:"busy_s"`
	Starved     float64 `json:"starved_s"`
	Blocked     float64 `json:"blocked_s"`
	InParcels   uint64  `json:"in_parcels"`
	OutParcels  uint64  `json:"out_parcels"`
	Restarts    uint32  `json:"restarts"`
	Worker      uint32  `json:"worker"`
	Exit        string  `json:"exit"` // empty: its end is not written down
	InBytes     uint64  `json:"in_bytes"`
	OutBytes    uint64  `json:"out_bytes"`
	Redelivered uint64  `json:"redelivered"`
	Stale       uint64  `json:"stale"`
	CPU         float64 `json:"cpu_s"`
	MaxRSS      int64   `json:"max_rss"`
	NextPID     int     `json:"next_pid"` // of the worker that took its place; 0: none did
}

type bottleneckJSON struct {
	Stage string  `json:"stage"`
	Busy  float64 `json:"busy_percent"`
}

type guestJSON struct {
	Guest       string               `json:"guest"`
	Name        string               `json:"name"`
	Outcome     string               `json:"outcome"`
	Point       string               `json:"point"`
	Consistency string               `json:"consistency"`
	Method      string               `json:"method"`
	Policy      string               `json:"policy"`
	Reason      string               `json:"reason"`
	Disks       []diskJSON           `json:"disks"`
	Unprotected []events.Unprotected `json:"unprotected"`
	Code        string               `json:"code"`
	Op          string               `json:"op"`
	Object      string               `json:"object"`
	Cause       string               `json:"cause"`
	Remedy      string               `json:"remedy"`
}

type diskJSON struct {
	Disk      id.Disk `json:"disk"`
	Key       string  `json:"key"`
	Mode      string  `json:"mode"`
	Source    string  `json:"source"`
	Reason    string  `json:"reason"`
	Sealed    bool    `json:"sealed"` // the counts below are final
	Size      int64   `json:"size"`
	Zero      int64   `json:"zero_bytes"`
	Unchanged int64   `json:"unchanged_bytes"`
	Known     int64   `json:"known_bytes"`
	New       int64   `json:"new_bytes"`
	Read      int64   `json:"read_bytes"`
	Stored    int64   `json:"stored_bytes"`
	AddsUp    bool    `json:"adds_up"`
}

// MarshalJSON gives the account as one object:
//
//	{"job","outcome","facts":[{"position","time","type",...}],"stages":[...],
//	 "verb","began","ended","duration_s","cause","fenced_by","guests","bottleneck","findings","stage_totals":[...]}
//
// A fact has the fields of its wire form beside its position, time and type; a
// field that is itself called by one of these three names has "fact_" before it.
// stages has one entry per worker process, stage_totals one per stage. Byte strings are base64 where this
// program knows the fact, hex where a later one wrote it.
func (a *Account) MarshalJSON() ([]byte, error) {
	out := accountJSON{Job: a.Job, Outcome: a.Outcome, Facts: []json.RawMessage{}, Stages: []stageJSON{}, Verb: a.Started.Verb,
		Began: a.Began, Ended: a.Ended, Duration: a.Duration().Seconds(), FencedBy: []id.Job{}, Guests: []guestJSON{},
		Bottleneck: bottleneckJSON{a.Slowest.Stage, percent(a.Slowest.Share)}, Findings: append([]string{}, a.Findings...), Totals: []tally.Form{}}
	if a.Finished != nil {
		out.Cause = a.Finished.Cause
	}
	for _, f := range a.Fences {
		out.FencedBy = append(out.FencedBy, f.By)
	}
	for _, r := range a.Facts {
		b, err := factJSON(r)
		if err != nil {
			return nil, fmt.Errorf("write %s at position %d as JSON: %w", r.Kind, r.Position, err)
		}
		out.Facts = append(out.Facts, b)
	}
	for _, w := range a.Workers {
		out.Stages = append(out.Stages, w.json())
	}
	for n := range a.Totals {
		out.Totals = append(out.Totals, a.Totals[n].Form())
	}
	for _, g := range a.Guests {
		out.Guests = append(out.Guests, g.json())
	}
	return encode(out)
}

func percent(share float64) float64 { return float64(int(share*1000+0.5)) / 10 }

func (w *Worker) json() stageJSON {
	j := stageJSON{Stage: w.Stage, PID: w.PID, Worker: w.Number, Restarts: w.Restart}
	if w.Next != nil {
		j.NextPID = w.Next.PID
	}
	if f := w.Stop; f != nil {
		j.Exit, j.MaxRSS = f.Exit, f.MaxRSS
		j.Busy, j.Starved, j.Blocked, j.CPU = seconds(f.BusyNS), seconds(f.StarvedNS), seconds(f.BlockedNS), seconds(f.CPUNS)
		j.InParcels, j.OutParcels, j.InBytes, j.OutBytes = f.InParcels, f.OutParcels, f.InBytes, f.OutBytes
		j.Redelivered, j.Stale = f.Redelivered, f.Stale
	}
	return j
}

func seconds(ns int64) float64 { return time.Duration(ns).Seconds() }

func (g *Guest) json() guestJSON {
	j := guestJSON{Guest: idOf(g.ID), Name: g.Name, Outcome: g.Outcome(), Disks: []diskJSON{}, Unprotected: append([]events.Unprotected{}, g.Unprotected...)}
	if g.Point != nil {
		j.Point = g.Point.Point.String()
	}
	if s := g.Snapshot; s != nil {
		j.Consistency, j.Method, j.Policy, j.Reason = s.Consistency, s.Method, s.Policy, s.Reason
	}
	if r := g.Result; r != nil {
		j.Code, j.Op, j.Object, j.Cause, j.Remedy = r.Code, r.Op, r.Object, r.Cause, r.Remedy
	}
	for _, d := range g.Disks {
		dj := diskJSON{Disk: d.ID, Key: d.Key()}
		if p := d.Plan; p != nil {
			dj.Mode, dj.Source, dj.Reason, dj.Size = p.Mode, p.Source, p.Reason, p.DiskBytes
		}
		if s := d.Sealed; s != nil {
			dj.Sealed, dj.AddsUp, dj.Size, dj.Zero, dj.Unchanged, dj.Known, dj.New = true, AddsUp(*s), s.Size, s.ZeroBytes, s.UnchangedBytes, s.KnownBytes, s.NewBytes
			dj.Read, dj.Stored = s.ReadBytes, s.StoredBytes
		}
		j.Disks = append(j.Disks, dj)
	}
	return j
}

// idOf is an id as text, nothing if it is absent.
func idOf(x interface {
	fmt.Stringer
	IsZero() bool
}) string {
	if x.IsZero() {
		return ""
	}
	return x.String()
}

// object is a JSON object while it is written, member by member.
type object struct{ bytes.Buffer }

func (o *object) put(key string, value any) error {
	k, err := encode(key)
	if err != nil {
		return err
	}
	v, err := encode(value)
	if err != nil {
		return err
	}
	if o.Len() == 0 {
		o.WriteByte('{')
	} else {
		o.WriteByte(',')
	}
	o.Write(k)
	o.WriteByte(':')
	o.Write(v)
	return nil
}

// field puts a field of a fact, which may not hide what every fact has.
func (o *object) field(key string, value any) error {
	if key == "position" || key == "time" || key == "type" {
		key = "fact_" + key
	}
	return o.put(key, value)
}

// factJSON writes a fact with its position, time and type before its own fields.
func factJSON(r events.Record) (json.RawMessage, error) {
	var o object
	err := errors.Join(o.put("position", r.Position), o.put("time", r.Time), o.put("type", r.Kind))
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	if _, later := r.Fact.(events.Unknown); !later {
		text, err := encode(r.Fact)
		if err != nil {
			return nil, err
		}
		d := json.NewDecoder(bytes.NewReader(text))
		_, err = d.Token() // the opening brace
		for err == nil && d.More() {
			var key json.Token
			var value json.RawMessage
			if key, err = d.Token(); err == nil {
				err = d.Decode(&value)
			}
			if name, ok := key.(string); ok && err == nil {
				seen[name] = true
				err = o.field(name, value)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if err := o.laterFields(r, seen); err != nil {
		return nil, err
	}
	o.WriteByte('}')
	return o.Bytes(), nil
}

// laterFields adds the fields that a later program wrote and this one has no name
// for. What cannot be shown field by field is shown as its bytes.
func (o *object) laterFields(r events.Record, seen map[string]bool) error {
	u, unknown := r.Fact.(events.Unknown)
	if r.Raw == nil && !unknown {
		return nil
	}
	fields, err := r.Fields()
	if err == nil {
		_, err = encode(plain(fields))
	}
	if err != nil {
		if unknown {
			return o.put("body", hex.EncodeToString(u.Body))
		}
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !seen[name] {
			if err := o.field(name, plain(fields[name])); err != nil {
				return err
			}
		}
	}
	return nil
}

// plain writes byte strings as hex, at any depth.
func plain(v any) any {
	switch v := v.(type) {
	case []byte:
		return hex.EncodeToString(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k := range v {
			out[k] = plain(v[k])
		}
		return out
	}
	return v
}

// encode is json.Marshal with <, > and & left as they are.
func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}
