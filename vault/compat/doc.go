// Package compat proves that vaults keep the promise "Tink, as google/tink/go
// 1.7.0 writes and reads it". It has tests only, and is a module of its own so
// that the archived library never enters the program.
//
// The product links tink-go/v2, the successor. The tests here make AES-256-GCM
// keysets and ciphertexts on each side and open them on the other, through Tink
// alone and through the vault's own sealing. The old side is the helper program
// in folder old, a module again, because one binary cannot hold both libraries.
//
// Run "go test ./..." in this folder; it needs the network, or a module cache, for
// google/tink/go. "go test . -update" writes vault/testdata/tink-1.7.0.json anew,
// from which the main module's tests keep the promise without this module.
//
// What is not promised: XAES-256-GCM, which new vaults use, does not exist in
// 1.7.0; the old library refuses such keysets, and a test says so.
package compat
