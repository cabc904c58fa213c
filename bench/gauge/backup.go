package gauge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Summary is the last line of backup --json.
type Summary struct {
	Type      string   `json:"type"`
	Job       string   `json:"job"`
	Points    []string `json:"points"`
	Disk      int64    `json:"disk_bytes"`
	Read      int64    `json:"read_bytes"`
	New       int64    `json:"new_bytes"`
	Stored    int64    `json:"stored_bytes"`
	Duration  float64  `json:"duration_s"`
	WorkerCPU float64  `json:"cpu_s"`
}

// Worker is what the ledger says of one worker: see audit show --json.
type Worker struct {
	Stage   string  `json:"stage"`
	Busy    float64 `json:"busy_s"`
	Starved float64 `json:"starved_s"`
	Blocked float64 `json:"blocked_s"`
	CPU     float64 `json:"cpu_s"`
	Parcels uint64  `json:"in_parcels"`
}

// Backup makes a backup of an image into the program's vault.
func (p Program) Backup(ctx context.Context, image string, flags ...string) (Summary, Cost, error) {
	out, c, err := p.Run(ctx, append(append([]string{"backup", "--json", "--quiet"}, flags...), image)...)
	if err != nil {
		return Summary{}, c, err
	}
	s, err := ParseSummary(out)
	// Workers are children of the conductor and waited for: what they say they took
	// must be part of what the kernel accounts to all.
	if err == nil && (s.WorkerCPU < 0 || s.WorkerCPU > c.CPU) {
		err = fmt.Errorf("the workers say %.2f CPU seconds, the kernel %.2f for all processes", s.WorkerCPU, c.CPU)
	}
	return s, c, err
}

// ParseSummary finds the summary at the end of what backup --json printed.
func ParseSummary(out []byte) (s Summary, err error) {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	last := lines[len(lines)-1]
	if err := json.Unmarshal(last, &s); err != nil || s.Type != "summary" || len(s.Points) != 1 {
		return s, errors.Join(fmt.Errorf("read the summary of a backup: it is %q", last), err)
	}
	return s, nil
}

// Workers lists the workers of the newest job, those that died included.
func (p Program) Workers(ctx context.Context) ([]Worker, error) {
	out, _, err := p.Run(ctx, "audit", "show", "latest", "--json")
	if err != nil {
		return nil, err
	}
	var account struct{ Stages []Worker }
	if err := json.Unmarshal(out, &account); err != nil {
		return nil, fmt.Errorf("read the account of a job: %w", err)
	}
	return account.Stages, nil
}
