// Package fault says what went wrong in the words that users and scripts get.
//
// Library errors carry operation, object and cause in their text; a verb adds
// [At] where it knows better, or a [Fault] with a code of its own. [Of] turns
// whatever arrives at the top into a complete Fault: a code that never changes,
// what was being done to what, the cause, what to do about it, and the exit code.
// [Kinds] is the table of all codes; docs/operator.md holds the same one, and a
// test compares them.
//
// The package prints nothing and ends nothing.
package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/millrace-backup/millrace/audit/replay"
	"github.com/millrace-backup/millrace/blockdev/overlay"
	"github.com/millrace-backup/millrace/catalog"
	"github.com/millrace-backup/millrace/catalog/trust"
	"github.com/millrace-backup/millrace/conductor/control"
	"github.com/millrace-backup/millrace/conductor/runs"
	"github.com/millrace-backup/millrace/domain"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/hypervisor"
	"github.com/millrace-backup/millrace/hypervisor/qemu/launch"
	"github.com/millrace-backup/millrace/ledger"
	"github.com/millrace-backup/millrace/restore"
	"github.com/millrace-backup/millrace/restore/tree"
	"github.com/millrace-backup/millrace/selection"
	"github.com/millrace-backup/millrace/vault"
	"github.com/millrace-backup/millrace/vault/store"
	"github.com/millrace-backup/millrace/vdisk"
	"github.com/millrace-backup/millrace/vdisk/open"
)

// Exit codes; docs/operator.md says what each means.
const (
	ExitDone        = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitPart        = 3
	ExitDamage      = 4
	ExitNoVault     = 10
	ExitGuestBusy   = 11
	ExitWrongKey    = 12
	ExitInterrupted = 130
)

// Fault is an error as its reader needs it: a code that scripts may rely on,
// what was being done to what, why it did not work, and what to do about it.
// Any part may be empty and is then filled in by Of.
type Fault struct {
	Code   string // of the table kinds
	Op     string // what was being done: "open vault"
	Object string // to what: a path, an id
	Remedy string // what to do; the kind's own if empty
	Err    error  // the cause

	Reported bool // the user has been told already: only the exit code is left
}

func (f *Fault) Error() string {
	return strings.Join(slices.DeleteFunc([]string{strings.TrimSpace(f.Op + " " + f.Object), f.Cause()},
		func(s string) bool { return s == "" }), ": ")
}

func (f *Fault) Unwrap() error { return f.Err }

// Cause is the text of the error below, without the operation and the object if
// that begins with them too.
func (f *Fault) Cause() string {
	if f.Err == nil {
		return ""
	}
	text := strings.TrimPrefix(f.Err.Error(), f.Op+": ")
	return strings.TrimPrefix(text, f.Op+" "+f.Object+": ")
}

// Exit is the exit code that goes with the fault.
func (f *Fault) Exit() int { return kindOf(f.Code).Exit }

// At says what was being done to what when err came up; nil stays nil.
func At(op, object string, err error) error {
	if err == nil {
		return nil
	}
	return &Fault{Op: op, Object: object, Err: err}
}

// Usage is the error of a command line that makes no sense.
func Usage(format string, args ...any) error {
	return &Fault{Code: "usage", Op: "read command line", Err: fmt.Errorf(format, args...)}
}

// FromFlow gives an error that came from a stage or a running job the form of a
// command's; others stay as they are.
func FromFlow(err error) error {
	var f *flow.Fault
	if err == nil || !errors.As(err, &f) {
		return err
	}
	cause := f.Err
	if f.Cause != "" {
		cause = errors.New(f.Cause) // in words; Err may be no more than "context canceled"
	}
	return &Fault{Code: f.Code, Op: f.Op, Object: f.Object, Err: cause, Remedy: f.Remedy}
}

// Interrupted marks an error that came up because the user stopped the program.
func Interrupted(err error) error { return &Fault{Code: "interrupted", Err: err} }

// ErrNoPassword: nobody said what the password is, and nobody can be asked.
var ErrNoPassword = errors.New("no password was given")

// Kind is one sort of error: its stable code, the error that marks it, its exit
// code and what its reader can do about it.
type Kind struct {
	Code   string
	Is     error // nil: chosen by code only
	Exit   int
	Remedy string
}

// Kinds is the table of all errors, in order of precedence: an error that is of
// several kinds has the first. docs/operator.md holds the same table, and a test
// compares them. Codes are never renamed.
func Kinds() []Kind {
	return []Kind{
		{"usage", nil, ExitUsage, "see millrace help, or the command's --help"},
		{"interrupted", context.Canceled, ExitInterrupted, "run it again: what is already stored is found and not stored twice"},
		{"part-failed", nil, ExitPart, "see the errors above: each names a guest and what to do; the other guests have their points"},
		{"witness", nil, ExitPart, "the work itself is done: mend the witness, and the next command tells it"},
		{"guest-busy", nil, ExitGuestBusy, "wait for the other job; if its host is gone, its claim on the guest ends by itself"},
		{"selects-nothing", nil, ExitFailed, "see millrace set show for what the set looks for, and check that what its sources name is there and mounted"},
		{"guest-gone", nil, ExitPart, "if the guest is really gone, define the set without it; else check the set's sources"},
		{"set-exists", nil, ExitFailed, "choose another name, or say --replace to define the set anew"},
		{"set-keeps-all", nil, ExitFailed, "define the set anew with --keep-last N, --keep-daily N, ... and --replace, or give forget the rule itself"},
		{"set-unclear", selection.ErrDefinition, ExitFailed, "define the set anew with millrace set add --replace, or use the version of Millrace that defined it"},
		{"too-large", nil, ExitPart, "give larger parcels with --parcel, or choose fewer disks"},
		{"job-running", nil, ExitFailed, "wait until the job has ended"},
		{"other-vault", store.ErrOther, ExitNoVault, "check the path and what is mounted there"},
		{"wrong-key", vault.ErrWrongKey, ExitWrongKey, "check the password file; the recovery key printed by init opens the vault too"},
		{"keys-rotated", vault.ErrRotated, ExitWrongKey, "run the command again; if it says so again, this password was left behind when the keys were rotated: use one that was kept, or the new recovery key"},
		{"rollback", ledger.ErrRollback, ExitDamage, "the vault was set back to an earlier state: find out who restored or copied it, and when, before using it"},
		{"forked", ledger.ErrForked, ExitDamage, "two copies of this vault were written to: keep both, and find out which is genuine"},
		{"damaged", vault.ErrDamaged, ExitDamage, "keep the vault as it is, check the disk below it, then run millrace verify --read-data to see what is hit"},
		{"newer-format", vault.ErrNewer, ExitFailed, "use the version of Millrace that wrote it, or a later one; if there is none, the object is damaged"},
		{"no-vault", vault.ErrNoVault, ExitNoVault, "check the path and what is mounted there; millrace init makes a new vault"},
		{"no-store", store.ErrNoStore, ExitNoVault, "check the path and what is mounted there; millrace init makes a new vault"},
		{"vault-exists", vault.ErrVaultExists, ExitFailed, "use it, or choose another place: init never replaces a vault"},
		{"store-full", store.ErrFull, ExitFailed, "make room where the vault lies; what is already stored stays usable"},
		{"store-read-only", store.ErrReadOnly, ExitFailed, "check permissions and mount options where the vault lies"},
		{"no-password", ErrNoPassword, ExitUsage, "give --password-file, --password-command or --password-fd, set MILLRACE_PASSWORD_FILE, or use a terminal"},
		{"no-moment", replay.ErrMoment, ExitFailed, "see millrace audit replay without --at for where the ledger ends"},
		{"no-match", catalog.ErrNone, ExitFailed, "see millrace points, or millrace audit show, for what there is"},
		{"shredded", catalog.ErrShredded, ExitFailed, "nothing of the guest can be read any more; its next backup gives it new keys"},
		{"keys-missing", vault.ErrNoDomain, ExitDamage, "millrace audit verify tells if they were shredded or are lost; if they are lost, put the folder below domains/ back from a copy of the vault"},
		{"keys-shared", domain.ErrShared, ExitFailed, "forget its points by name or by a rule, then run millrace prune; back it up with --domain guest to be able to shred it; with --force, points in the shared domain are forgotten with the rest"},
		{"kept", nil, ExitFailed, "unpin the point first, or say --force if it really is to go"},
		{"no-tree", tree.ErrNone, ExitFailed, "restore without --with-checkpoints; a point has a tree when its source is a machine that Hyper-V exported, no disks were chosen, and --no-checkpoints was not given"},
		{"not-running", control.ErrNotRunning, ExitFailed, "millrace audit show tells how jobs went; top and tune see those that run on this machine with this --state"},
		{"no-run", runs.ErrNone, ExitFailed, "see millrace run list; runs are those of this machine, with this --state"},
		{"run-going", runs.ErrRunning, ExitFailed, "see millrace run list; millrace run stop ends a run"},
		{"run-moving", runs.ErrMoving, ExitFailed, "wait for it, or end it: it can be given again, and goes on where it was"},
		{"overlay-damaged", overlay.ErrDamaged, ExitDamage, "keep the run's folder under runs/ in the state folder, and check the disk below it: what the guest wrote is in there; the backup is whole"},
		{"no-qemu", launch.ErrNoQEMU, ExitFailed, "install QEMU (Debian package qemu-system-x86), or leave out --host to have the disks served alone"},
		{"boot-failed", nil, ExitFailed, "look at what the guest has shown: --boot-keep FOLDER has its screen and serial port; give it longer with --boot-wait, or say with --boot-serial what it prints when it is up"},
		{"guest-on", runs.ErrOn, ExitFailed, "shut it down from inside, give it longer with --grace, or say --grace 0: it is switched off, and the point is as after a power cut"},
		{"guest-off", runs.ErrOff, ExitFailed, "start it with millrace run resume: only a guest that runs, with its disks served, can be moved"},
		{"guest-ended", launch.ErrGone, ExitFailed, "see qemu.log and serial.log in the run's folder under runs/ in the state folder"},
		{"vanished", control.ErrVanished, ExitFailed, "it was killed, or its machine is in trouble: run the backup again, which finds what was stored; its logs are under jobs/ in the state folder"},
		{"ambiguous", catalog.ErrAmbiguous, ExitFailed, "give more of the name: the message lists what could be meant"},
		{"image-truncated", vdisk.ErrTruncated, ExitFailed, "the disk image is shorter than it says: copy or export it again"},
		{"image-damaged", vdisk.ErrFormat, ExitFailed, "the disk image is damaged: check it with qemu-img check, or export it again"},
		{"parent-missing", open.ErrNoParent, ExitFailed, "put the parent image that the message names into the source's folder"},
		{"folder-needed", open.ErrParentNeeded, ExitFailed, "give as the source the folder that holds the image and its parents, not the one file"},
		{"parent-wrong", open.ErrWrongParent, ExitFailed, "put the parent image as it was when the child was made into the source's folder; export or copy the chain again"},
		{"image-unsupported", vdisk.ErrUnsupported, ExitFailed, "convert the disk image with qemu-img to raw, VHDX, VHD or qcow2, without encryption or data in other files"},
		{"source-changed", hypervisor.ErrChanged, ExitFailed, "the disk was written to while it was read, so no point was made: stop the guest, or back up a snapshot of it"},
		{"consistency", hypervisor.ErrConsistency, ExitPart, "see which writer held the disk; --freeze prefer takes what can be had"},
		{"no-disks", hypervisor.ErrNoDisks, ExitFailed, "check the source: a disk image, or a folder with at least one"},
		{"image-unreadable", nil, ExitFailed, "check that the image is whole and its disk healthy, then run the job again"},
		{"freeze-failed", nil, ExitFailed, "check that the guest's disks are there and readable by this account, then run the job again"},
		{"fenced", ledger.ErrFenced, ExitFailed, "another job has the guest now and what it commits counts; find out why this host was stopped or cut off from the vault for so long"},
		{"pack-retired", nil, ExitFailed, trust.Remedy},
		{"vault-io", nil, ExitFailed, "check the vault's disk or server, then run the job again; what was stored is found again"},
		{"stage-dies", nil, ExitFailed, "look into the logs of the job's folder under the state directory"},
		{"queue-lost", nil, ExitFailed, "start the NATS server or mend the way to it, then run the job again; what was stored is found again"},
		{"seal-mismatch", nil, ExitFailed, "test this machine's memory; nothing wrong was stored"},
		{"bad-message", nil, ExitFailed, "run the job again, and report it with the logs of the job's folder"},
		{"form", restore.ErrForm, ExitFailed, "choose another --format: raw holds every disk"},
		{"not-a-file", restore.ErrNotFile, ExitFailed, "choose another target: a device, folder or link is never replaced"},
		{"exists", fs.ErrExist, ExitFailed, "choose another target, or give --force to replace what is there"},
		{"disk-full", syscall.ENOSPC, ExitFailed, "make room on the disk that the message names"},
		{"not-permitted", fs.ErrPermission, ExitFailed, "run as a user who may do this, or change the permissions"},
		{"not-found", fs.ErrNotExist, ExitFailed, "check the name"},
		{"timeout", context.DeadlineExceeded, ExitFailed, "try again; if it stays so, see the log"},
		{"failed", nil, ExitFailed, "run it again; if it stays so, report it with this message"},
	}
}

func kindOf(code string) Kind {
	all := Kinds()
	for _, k := range all {
		if k.Code == code {
			return k
		}
	}
	return all[len(all)-1]
}

// Of turns any error into a complete fault. Op and object are the
// outermost that were given, the code is the outermost given or else the first
// kind that the error is of, and the cause is what stood below.
func Of(err error) *Fault {
	var out Fault
	for inner := err; ; {
		var f *Fault
		if !errors.As(inner, &f) {
			break
		}
		if out.Op == "" && f.Op != "" {
			out.Op, out.Object = f.Op, f.Object
		}
		out.Reported = out.Reported || f.Reported
		out.Code = first(out.Code, f.Code)
		out.Remedy = first(out.Remedy, f.Remedy)
		out.Err = f.Err
		inner = f.Err
	}
	if out.Err == nil {
		out.Err = err
	}
	if out.Code == "" {
		out.Code = "failed"
		for _, k := range Kinds() {
			if k.Is != nil && errors.Is(err, k.Is) {
				out.Code = k.Code
				break
			}
		}
	}
	out.Op = first(out.Op, "run command")
	out.Remedy = first(out.Remedy, kindOf(out.Code).Remedy)
	return &out
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// ObjectOf is the first object of a vault that an error names, or "".
func ObjectOf(err error) string {
	return regexp.MustCompile(`\b(ledger|checkpoints|keys|domains|packs|tables|catalogs|points)/[a-z0-9][a-z0-9./_-]*[a-z0-9]`).FindString(err.Error())
}
