package flow

import (
	"bufio"
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

// Secret prints as *** everywhere but in the JSON that goes down the pipe.
type Secret []byte

func (Secret) String() string       { return "***" }
func (Secret) GoString() string     { return "***" }
func (Secret) LogValue() slog.Value { return slog.StringValue("***") }

const maxConfig = 16 << 20

// WriteConfig sends c: length (u32, little-endian), then JSON.
func WriteConfig(w io.Writer, c Config) error {
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode the settings of %s: %w", c.Stage, err)
	}
	if _, err := w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
		return fmt.Errorf("hand settings to %s: %w", c.Stage, err)
	}
	return nil
}

// ReadConfig receives what WriteConfig sent. What follows on r are [Control] lines.
func ReadConfig(r *bufio.Reader) (Config, error) {
	var c Config
	var n uint32
	if err := binary.Read(r, binary.LittleEndian, &n); err != nil {
		return c, fmt.Errorf("read settings from the conductor: %w", err)
	}
	if n > maxConfig {
		return c, fmt.Errorf("read settings from the conductor: %d bytes announced", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return c, fmt.Errorf("read settings from the conductor: %w", err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("read settings from the conductor: %w", err)
	}
	return c, nil
}

// Drain is the control line that asks a worker to finish what it holds and leave.
const Drain = "drain"
