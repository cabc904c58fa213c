package audittest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/ledger"
)

// Forge makes what somebody without the vault's keys can: the next segment behind a
// checkpoint, whose clear header fits it in every way and names objects, around a body of
// noise. Nobody has signed it, and it does not open.
func Forge(t testing.TB, behind ledger.Checkpoint, in, out []ledger.ObjectRef) (name string, object []byte) {
	t.Helper()
	body := make([]byte, 300)
	_, _ = rand.Read(body)
	h := ledger.Header{Vault: behind.Vault, Seq: behind.Seq, PrevSize: behind.Size, PrevRoot: behind.Root, Edge: behind.Edge,
		Time: behind.Time + 1, In: in, Out: out, BodySum: sha256.Sum256(body)}
	h.Job[0], h.MetaKey = 0xf0, 1
	header, err := events.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	b.WriteString("MRSEGM\x00\x01") // docs/format/segment.md
	_ = binary.Write(&b, binary.BigEndian, uint32(len(header)))
	b.Write(header)
	b.Write(body)
	return ledger.SegmentName(behind.Seq), b.Bytes()
}
