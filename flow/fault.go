package flow

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
)

// Class says what happens next after an error. The value crosses process
// borders: append only.
type Class uint8

// The classes.
const (
	Retry   Class = iota // give the message back, try later; after some tries: Park
	Park                 // this guest gets no point; the others go on
	Corrupt              // bytes disagree with their name: stop the job
	Halt                 // the job cannot go on: the vault is full, gone or read-only
)

func (c Class) String() string {
	switch c {
	case Retry:
		return "retry"
	case Park:
		return "park"
	case Corrupt:
		return "corrupt"
	}
	return "halt"
}

// Fault is an error as it travels between processes. Err, if set, is the cause
// within this process; on the wire only Cause goes.
type Fault struct {
	Class  Class  `json:"class"`
	Code   string `json:"code"`   // stable, for scripts: source-changed, store-full, ...
	Stage  string `json:"stage"`  // where it happened
	Op     string `json:"op"`     // what was being done
	Object string `json:"object"` // to what
	Cause  string `json:"cause"`
	Remedy string `json:"remedy"`
	Disk   uint32 `json:"disk"`
	Guest  uint32 `json:"guest"`
	ByDisk bool   `json:"by_disk"` // Disk is meant, not Guest

	Err error `json:"-"`
}

func (f *Fault) Error() string { return fmt.Sprintf("%s %s: %s", f.Op, f.Object, f.Cause) }

func (f *Fault) Unwrap() error { return f.Err }

const makeRoom = "make room on the disk of the file that the message names (the state folder, unless it says otherwise), then run the job again; what was stored is found again"

// AsFault returns err as a Fault. An error that says nothing of itself halts the
// job: going on after the unknown is how backups come to lie.
func AsFault(err error, stage string) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		if f.Cause == "" && f.Err != nil {
			f.Cause = f.Err.Error()
		}
		if f.Stage == "" {
			f.Stage = stage // where it happened, not who passes it on
		}
		return f
	}
	f = &Fault{
		Class: Halt, Code: "failed", Stage: stage, Op: "run stage", Object: stage, Cause: err.Error(),
		Remedy: "look into the job's log; report it if the cause is not on this machine", Err: err,
	}
	switch { // of this machine: what is wrong with the vault is a VaultFault
	case errors.Is(err, syscall.ENOSPC):
		f.Code, f.Remedy = "disk-full", makeRoom
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		f.Code, f.Remedy = "not-permitted", "give this account the right to write to the state folder, or choose another with --state"
	}
	return f
}

// VaultFault says what it means for a job that the vault could not be written
// or read: full, read-only or gone halts it, damage stops it as corrupt.
func VaultFault(op, object string, err error) error {
	f := &Fault{Class: Halt, Code: "vault-io", Op: op, Object: object, Cause: err.Error(), Err: err, Remedy: "check the vault's disk or server, then run the job again; what was stored is found again"}
	switch {
	case errors.Is(err, ledger.ErrFenced):
		f.Code, f.Remedy = "fenced", "another job has the guest now and what it commits counts; find out why this host was stopped or cut off from the vault for so long"
	case errors.Is(err, ledger.ErrShredded):
		f.Code, f.Remedy = "shredded", "nothing of the guest can be read any more; its next backup gives it new keys"
	case errors.Is(err, store.ErrOther):
		f.Code, f.Remedy = "other-vault", "check the path and what is mounted there; nothing was written to the other vault"
	case errors.Is(err, store.ErrFull):
		f.Code, f.Remedy = "store-full", "make room on the vault's disk, then run the job again; what was stored is found again"
	case errors.Is(err, syscall.ENOSPC): // a store says ErrFull: this is a file of ours, met on the way
		f.Code, f.Remedy = "disk-full", makeRoom
	case errors.Is(err, store.ErrReadOnly):
		f.Code, f.Remedy = "store-read-only", "give this account the right to write to the vault, or mount it writable"
	case errors.Is(err, store.ErrNoStore):
		f.Code, f.Remedy = "no-store", "mount or connect the vault, then run the job again"
	case errors.Is(err, vault.ErrDamaged), errors.Is(err, store.ErrNotFound):
		f.Class, f.Code, f.Remedy = Corrupt, "damaged", "run millrace verify; restore the damaged object from a copy of the vault if there is one"
	}
	return f
}

// ParentFault says what it means for a guest that the tables of the point it is
// compared with could not be read: damage or loss ends this guest's part in the
// job, since without the parent it can be backed up; all else is as VaultFault has it.
func ParentFault(op, object string, guest uint32, err error) error {
	if !errors.Is(err, vault.ErrDamaged) && !errors.Is(err, store.ErrNotFound) {
		return VaultFault(op, object, err)
	}
	return &Fault{
		Class: Park, Code: "damaged", Op: op, Object: object, Guest: guest, Cause: err.Error(), Err: err,
		Remedy: "run the job again with --scan full, which needs no earlier point; run millrace verify to see which points are damaged",
	}
}
