package trial

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Result is a line of the journal: what became of one trial.
type Result struct {
	Trial  int      `json:"trial"`
	Kinds  []string `json:"kinds"`
	Note   string   `json:"note,omitempty"`
	Error  string   `json:"error,omitempty"` // empty: it passed
	Checks int      `json:"checks,omitzero"`
	Millis int64    `json:"ms"`
}

// journal remembers which trials are done.
type journal struct {
	file *os.File
	done map[int]Result
}

// openJournal reads what is there. A last line that was cut off by a crash is
// dropped, so its trial is done again.
func openJournal(path string) (*journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &journal{done: map[int]Result{}}
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	for line := range bytes.Lines(whole) {
		var r Result
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("read journal %s: %w: remove it to begin anew", path, err)
		}
		j.done[r.Trial] = r
	}
	if j.file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := j.file.Truncate(int64(len(whole))); err != nil {
		return nil, errors.Join(err, j.file.Close())
	}
	if _, err := j.file.Seek(int64(len(whole)), 0); err != nil {
		return nil, errors.Join(err, j.file.Close())
	}
	return j, nil
}

// add writes a result down. It is not synced: a campaign that loses its last lines
// to a power cut does those trials again.
func (j *journal) add(r Result) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	j.done[r.Trial] = r
	return nil
}

func (j *journal) close() { _ = j.file.Close() }
