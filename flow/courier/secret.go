package courier

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret prints as ***: in every format verb, in logs, in any encoding. Only
// flow/pipe sends it.
type Secret []byte

// Format implements fmt.Formatter, for all verbs.
func (Secret) Format(s fmt.State, _ rune)     { _, _ = io.WriteString(s, "***") }
func (Secret) String() string                 { return "***" }
func (Secret) GoString() string               { return "***" }
func (Secret) LogValue() slog.Value           { return slog.StringValue("***") }
func (Secret) MarshalText() ([]byte, error)   { return []byte("***"), nil }
func (Secret) MarshalBinary() ([]byte, error) { return []byte("***"), nil }
