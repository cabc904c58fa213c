package ledger

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/merkle"
	"github.com/millrace-backup/millrace/vault"
)

// maxCheckpoint bounds what is read: seven lines, 48 edge hashes, a signature.
const maxCheckpoint = 8 << 10

// maxPrev bounds how many earlier checkpoints one names: as a rule it is one or two.
const maxPrev = 64

// Checkpoint is a signed statement of how far the ledger goes and what its
// Merkle root is. Whoever keeps one (see Options.Remembered) notices when a
// vault is set back to an earlier state.
type Checkpoint struct {
	Vault id.Vault
	Seq   uint64        // segments covered: the next segment has this number
	Size  uint64        // leaves covered
	Root  events.Hash   // of the tree of Size leaves
	Edge  []events.Hash // its right edge, largest subtree first: enough to continue it
	Time  events.Micros // when it was signed, by the signer's clock
	Prev  []uint64      // sizes of earlier checkpoints, which are there; none in older vaults
	Note  []byte        // the signed text: what to keep, and to give to ParseCheckpoint
}

func (c Checkpoint) tree() merkle.Tree { return merkle.Tree{Size: c.Size, Edge: c.Edge} }

// position says in an error where a checkpoint stands.
func (c Checkpoint) position() string {
	return fmt.Sprintf("segment %d (size %d, root %s)", c.Seq, c.Size, id.Short(c.Root))
}

// origin is the first line of the note and the name of its key.
func origin(v id.Vault) string { return "millrace/" + v.String() }

// signer lets note.Sign use the vault's key without seeing it.
type signer struct {
	note.Verifier
	keys *vault.Keys
}

func (s signer) Sign(message []byte) ([]byte, error) { return s.keys.Sign(message) }

func verifier(v id.Vault, public ed25519.PublicKey) (note.Verifier, error) {
	text, err := note.NewEd25519VerifierKey(origin(v), public)
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(text)
}

// text is what is signed: C2SP's tlog-checkpoint with our lines behind it.
func (c Checkpoint) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%d\n%s\nseq %d\ntime %d\n", origin(c.Vault), c.Size, encode64(c.Root), c.Seq, c.Time)
	for _, size := range c.Prev {
		fmt.Fprintf(&b, "prev %d\n", size)
	}
	for _, h := range c.Edge {
		fmt.Fprintf(&b, "edge %s\n", encode64(h))
	}
	return b.String()
}

func encode64(h events.Hash) string { return base64.StdEncoding.EncodeToString(h[:]) }

func signCheckpoint(v *vault.Vault, seq uint64, t merkle.Tree, earlier []uint64, now time.Time) (Checkpoint, error) {
	c := Checkpoint{Vault: v.ID, Seq: seq, Size: t.Size, Root: t.Root(), Edge: t.Edge, Time: events.At(now), Prev: earlier}
	ver, err := verifier(v.ID, v.Config.SigningKey)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("sign checkpoint: %w", err)
	}
	if c.Note, err = note.Sign(&note.Note{Text: c.text()}, signer{ver, v.Keys}); err != nil {
		return Checkpoint{}, fmt.Errorf("sign checkpoint: %w", err)
	}
	return c, nil
}

// ParseCheckpoint checks the signature of a checkpoint of the vault that cfg
// describes, and that it says one thing only. ErrDamaged says that it is none.
func ParseCheckpoint(cfg vault.Config, signed []byte) (Checkpoint, error) {
	damaged := func(why error) (Checkpoint, error) {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w: %w", why, vault.ErrDamaged)
	}
	if len(signed) > maxCheckpoint {
		return damaged(fmt.Errorf("%d bytes", len(signed)))
	}
	ver, err := verifier(cfg.ID, cfg.SigningKey)
	if err != nil {
		return damaged(err)
	}
	n, err := note.Open(signed, note.VerifierList(ver))
	if err != nil {
		return damaged(err)
	}
	for _, sig := range n.Sigs { // the note package is lax about the last bits of base64
		if _, err := base64.StdEncoding.Strict().DecodeString(sig.Base64); err != nil {
			return damaged(err)
		}
	}
	c := Checkpoint{Vault: cfg.ID, Note: signed}
	lines := strings.Split(strings.TrimSuffix(n.Text, "\n"), "\n")
	if len(lines) < 5 || lines[0] != origin(cfg.ID) {
		return damaged(errors.New("not one of this vault"))
	}
	size, err1 := strconv.ParseUint(lines[1], 10, 64)
	root, err2 := decode64(lines[2])
	if err := errors.Join(err1, err2); err != nil {
		return damaged(err)
	}
	c.Size, c.Root = size, root
	for _, line := range lines[3:] {
		key, value, _ := strings.Cut(line, " ")
		switch key { // a later program may have written more
		case "seq":
			c.Seq, err = strconv.ParseUint(value, 10, 64)
		case "time":
			var t int64
			t, err = strconv.ParseInt(value, 10, 64)
			c.Time = events.Micros(t)
		case "prev":
			var size uint64
			size, err = strconv.ParseUint(value, 10, 64)
			c.Prev = append(c.Prev, size)
		case "edge":
			var h events.Hash
			h, err = decode64(value)
			c.Edge = append(c.Edge, h)
		}
		if err != nil {
			return damaged(err)
		}
	}
	if t := c.tree(); !t.Fits() || t.Root() != c.Root || c.Seq > c.Size {
		return damaged(errors.New("its edge is not that of its root"))
	}
	return c, nil
}

func decode64(s string) (h events.Hash, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return h, err
	}
	return h, h.UnmarshalBinary(b)
}

// checkpointName is the object name of a checkpoint of size leaves.
func checkpointName(size uint64) string { return numbered(checkpointFolder, size) }
