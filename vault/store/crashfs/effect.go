package crashfs

import "fmt"

// Op is a kind of effect.
type Op uint8

// The effects, and which fields of Effect they use.
const (
	OpCreate    Op = iota + 1 // Path, File: a new, empty file
	OpOpen                    // Path, File: a file that is there, to be written to
	OpWrite                   // File, Off, Data
	OpTruncate                // File, Off: the new length
	OpSync                    // File
	OpMkdir                   // Path
	OpLink                    // Path, To: a second name
	OpRename                  // Path, To: in place of what To was
	OpPublish                 // Path, To: only if To is free
	OpRemove                  // Path: a file
	OpRemoveDir               // Path
	OpSyncDir                 // Path
	OpNote                    // Data: no effect; what the outside was told at this point
)

var opNames = [...]string{"", "create", "open", "write", "truncate", "sync", "mkdir", "link", "rename", "publish", "remove", "rmdir", "syncdir", "note"}

func (o Op) String() string { return opNames[o] }

// Effect is one change of a disk. Paths are absolute. File stands for an open file
// from its Create or Open on, whatever happens to its names.
type Effect struct {
	Op       Op
	Path, To string
	File     int
	Off      int64
	Data     []byte // not to be changed by anyone
}

func (e Effect) String() string {
	switch e.Op {
	case OpWrite:
		return fmt.Sprintf("write #%d %d+%d", e.File, e.Off, len(e.Data))
	case OpTruncate:
		return fmt.Sprintf("truncate #%d %d", e.File, e.Off)
	case OpSync:
		return fmt.Sprintf("sync #%d", e.File)
	case OpCreate, OpOpen:
		return fmt.Sprintf("%s %s as #%d", e.Op, e.Path, e.File)
	case OpLink, OpRename, OpPublish:
		return fmt.Sprintf("%s %s -> %s", e.Op, e.Path, e.To)
	case OpNote:
		return fmt.Sprintf("note %.60q", e.Data)
	}
	return e.Op.String() + " " + e.Path
}
