package flow

import (
	"github.com/millrace-backup/millrace/flow/courier"
	"github.com/millrace-backup/millrace/id"
)

// Config is what the conductor hands a worker through its standard input,
// before anything else: never through arguments or environment, which other
// users may read. See package flow/pipe.
type Config struct {
	Job     id.Job         `json:"job"`
	Stage   string         `json:"stage"`
	Worker  uint32         `json:"worker"` // also the owner of its slots; never reused in a job
	Restart uint32         `json:"restart"`
	Dial    courier.Dial   `json:"dial"`   // how it reaches its queue
	Arena   uint64         `json:"arena"`  // the inherited handle
	Folder  string         `json:"folder"` // the job's folder in the state directory
	Host    string         `json:"host"`   // this machine, where it is not the conductor's
	Work    Work           `json:"work"`
	Grant   courier.Secret `json:"grant"` // the vault keys that this stage needs, no others
}

// Drain is the control line that asks a worker to finish what it holds and leave.
const Drain = "drain"
