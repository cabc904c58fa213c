// Package pipe hands a worker its settings, secrets among them, through its
// standard input: [Write] at the conductor's end, [Read] at the worker's. What
// follows the settings on the pipe are control lines (see flow.Drain); its end is
// the conductor's.
//
// Settings are hostile until read: their size is bounded before anything is
// allocated. They are internal to one version of the program, since one binary
// stands at both ends.
package pipe

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/flow/courier"
)

// open is a Config with its secrets laid open.
type open struct {
	flow.Config
	Dial  openDial `json:"dial"`
	Grant []byte   `json:"grant"`
}

type openDial struct {
	courier.Dial
	Password    []byte `json:"password"`
	Credentials []byte `json:"credentials"`
	Key         []byte `json:"key"`
}

const maxConfig = 16 << 20

// Write sends c: length (u32, little-endian), then JSON.
func Write(w io.Writer, c flow.Config) error {
	b, err := json.Marshal(open{c, openDial{c.Dial, c.Dial.Password, c.Dial.Credentials, c.Dial.Key}, c.Grant})
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

// Read receives what Write sent and leaves what follows on r.
func Read(r *bufio.Reader) (flow.Config, error) {
	var c open
	var n uint32
	if err := binary.Read(r, binary.LittleEndian, &n); err != nil {
		return flow.Config{}, fmt.Errorf("read settings from the conductor: %w", err)
	}
	if n > maxConfig {
		return flow.Config{}, fmt.Errorf("read settings from the conductor: %d bytes announced", n)
	}
	b := bytes.NewBuffer(nil) // grows as bytes come: n is only announced
	if _, err := io.CopyN(b, r, int64(n)); err != nil {
		return flow.Config{}, fmt.Errorf("read settings from the conductor: %w", err)
	}
	if err := json.Unmarshal(b.Bytes(), &c); err != nil {
		return flow.Config{}, fmt.Errorf("read settings from the conductor: %w", err)
	}
	c.Config.Dial = c.Dial.Dial
	c.Config.Dial.Password, c.Config.Dial.Credentials, c.Config.Dial.Key = c.Dial.Password, c.Dial.Credentials, c.Dial.Key
	c.Config.Grant = c.Grant
	return c.Config, nil
}
