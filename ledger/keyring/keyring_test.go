package keyring_test

import (
	"testing"

	"github.com/millrace-backup/millrace/id"
	"github.com/millrace-backup/millrace/ledger/keyring"
	"github.com/millrace-backup/millrace/vault"
)

// What is counted on when a key goes is a key of the latest secrets that the ledger
// brought in and that is there, and nothing less.
func TestLeft(t *testing.T) {
	key := func(n byte, kind string, generation int, s keyring.Standing) keyring.Key {
		return keyring.Key{Key: vault.Key{ID: id.Key{n}, Kind: kind, Generation: generation}, Standing: s}
	}
	const password, recovery = vault.KindPassword, vault.KindRecovery
	keys := []keyring.Key{
		key(1, password, 1, keyring.Opens), key(2, recovery, 1, keyring.Opens), key(3, password, 0, keyring.Opens), key(4, recovery, 0, keyring.Opens),
		key(5, password, 2, keyring.Pending), key(6, password, 1, keyring.Leaving), key(7, password, 1, keyring.Missing), key(8, recovery, 1, keyring.Foreign),
		key(9, password, 1, keyring.Damaged), key(10, password, 1, keyring.Announced), key(11, password, 1, keyring.Removed),
	}
	for n, want := range map[byte][2]int{1: {1, 1}, 2: {1, 0}, 3: {2, 1}, 8: {2, 1}} {
		all, left := keyring.Left(keys, id.Key{n})
		if all != want[0] || left != want[1] {
			t.Errorf("without key %d: %d keys, %d recovery keys; want %v", n, all, left, want)
		}
	}
	if n := keyring.Newest(keys); n != 1 {
		t.Errorf("newest generation %d", n)
	}
	if n := keyring.Newest(nil); n != -1 {
		t.Errorf("newest of none: %d", n)
	}
}
