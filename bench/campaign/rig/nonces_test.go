package rig

import (
	"errors"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/vault"
)

// A vault in which two chunks have one nonce is found out, among many in which each has
// its own, and a chunk that was moved as it is.
func TestReusedNonceIsFound(t *testing.T) {
	p, err := New(t.Context(), "", t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	o, err := Open(t.Context(), p.Vault, Password, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	d := o.Vault.Config.DefaultDomain
	seal := func(n byte) []byte {
		sealed, err := o.Vault.Keys.SealChunk(nil, d, id.Chunk{n}, []byte{n, 1, 2, 3})
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	pack := func(all ...[]byte) {
		job := id.NewJob()
		w, err := vault.NewPackWriter(t.Context(), o.Vault.Store, o.Vault.Keys, job, d)
		if err != nil {
			t.Fatal(err)
		}
		for n, sealed := range all {
			if _, err := w.Add(vault.PackEntry{Chunk: id.Chunk{byte(n), 9}, Raw: 4}, vault.PackDisk{Guest: id.Guest{1}, Disk: id.Disk{1}}, sealed); err != nil {
				t.Fatal(err)
			}
		}
		info, err := w.Close(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Ledger.Append(t.Context(), job, []events.Fact{events.JobStarted{Verb: "backup"}, events.PackStored{Pack: info.Name, Domain: d, Size: info.Size, Chunks: uint32(len(all))}}, nil, nil); err != nil {
			t.Fatal(err)
		}
		if o, err = Open(t.Context(), p.Vault, Password, time.Now); err != nil {
			t.Fatal(err)
		}
	}
	first := seal(1)
	pack(first, seal(2), seal(3))
	pack(seal(4), first) // moved
	if err := o.Nonces(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The planted fault: a sealer that draws the nonce of the first chunk once more.
	again := seal(5)
	copy(again, first[:29])
	pack(seal(6), again)
	if err := o.Nonces(t.Context()); !errors.Is(err, ErrNonceReused) {
		t.Errorf("%v, want a nonce that is used twice", err)
	}
}
