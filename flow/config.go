package flow

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/millrace-backup/millrace/id"
)

// Config is what the conductor hands a worker through its standard input,
// before anything else: never through arguments or environment, which other
// users may read.
type Config struct {
	Job      id.Job `json:"job"`
	Stage    string `json:"stage"`
	Worker   uint32 `json:"worker"` // also the owner of its slots; never reused in a job
	Restart  uint32 `json:"restart"`
	URL      string `json:"url"` // of the NATS server
	User     string `json:"user"`
	Password Secret `json:"password"`
	Arena    uint64 `json:"arena"`  // the inherited handle
	Folder   string `json:"folder"` // the job's folder in the state directory
	Work     Work   `json:"work"`
	Grant    Secret `json:"grant"` // the vault keys that this stage needs, no others
}

// Secret prints as ***: in every format verb, in logs, in any encoding. Only
// WriteConfig sends it.
type Secret []byte

// Format implements fmt.Formatter, for all verbs.
func (Secret) Format(s fmt.State, _ rune)     { _, _ = io.WriteString(s, "***") }
func (Secret) String() string                 { return "***" }
func (Secret) GoString() string               { return "***" }
func (Secret) LogValue() slog.Value           { return slog.StringValue("***") }
func (Secret) MarshalText() ([]byte, error)   { return []byte("***"), nil }
func (Secret) MarshalBinary() ([]byte, error) { return []byte("***"), nil }

// open is a Config with its secrets laid open, for the pipe.
type open struct {
	Config
	Password []byte `json:"password"`
	Grant    []byte `json:"grant"`
}

const maxConfig = 16 << 20

// WriteConfig sends c: length (u32, little-endian), then JSON.
func WriteConfig(w io.Writer, c Config) error {
	b, err := json.Marshal(open{c, c.Password, c.Grant})
	if err != nil {
		return fmt.Errorf("encode the settings of %s: %w", c.Stage, err)
	}
	if len(b) > maxConfig {
		return fmt.Errorf("encode the settings of %s: %d bytes, at most %d are taken", c.Stage, len(b), maxConfig)
	}
	if _, err := w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
		return fmt.Errorf("hand settings to %s: %w", c.Stage, err)
	}
	return nil
}

// ReadConfig receives what WriteConfig sent. What follows on r are [Control] lines.
func ReadConfig(r *bufio.Reader) (Config, error) {
	var c open
	var n uint32
	if err := binary.Read(r, binary.LittleEndian, &n); err != nil {
		return Config{}, fmt.Errorf("read settings from the conductor: %w", err)
	}
	if n > maxConfig {
		return Config{}, fmt.Errorf("read settings from the conductor: %d bytes announced", n)
	}
	b := bytes.NewBuffer(nil) // grows as bytes come: n is only announced
	if _, err := io.CopyN(b, r, int64(n)); err != nil {
		return Config{}, fmt.Errorf("read settings from the conductor: %w", err)
	}
	if err := json.Unmarshal(b.Bytes(), &c); err != nil {
		return Config{}, fmt.Errorf("read settings from the conductor: %w", err)
	}
	c.Config.Password, c.Config.Grant = c.Password, c.Grant
	return c.Config, nil
}

// Drain is the control line that asks a worker to finish what it holds and leave.
const Drain = "drain"
