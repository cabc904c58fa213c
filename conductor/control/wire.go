package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/millrace-backup/millrace/conductor/board"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
)

// SocketName is the name of the socket in a job's folder.
const SocketName = "control"

// Bounds of what is read: a request; a line of an answer, which has a guest in 200 bytes.
const (
	maxRequest = 4 << 10
	maxAnswer  = 4 << 20
	maxWords   = 500 // of a reason, in bytes
)

// Order is what an operator wants of a job.
type Order struct {
	Stages map[string]int // workers, by stage
	By     string         // who wants it; the system's word counts where it has one
	Why    string
}

// Change is what came of an order for one stage.
type Change struct {
	Stage string `json:"stage"`
	From  int    `json:"from"`
	To    int    `json:"to"`
}

// Tuned is the answer to an order.
type Tuned struct {
	Type    string   `json:"type"` // "tuned"
	Job     id.Job   `json:"job"`
	Changes []Change `json:"changes"`
}

// request is the line that a client sends.
type request struct {
	Do     string         `json:"do"` // report, watch, tune
	Stages map[string]int `json:"stages,omitempty"`
	By     string         `json:"by,omitempty"`
	Why    string         `json:"why,omitempty"`
}

// refusal is the answer to a request that is not carried out: the fields of a
// flow.Fault that are for people and scripts.
type refusal struct {
	Type   string `json:"type"` // "error"
	Code   string `json:"code"`
	Op     string `json:"op"`
	Object string `json:"object"`
	Cause  string `json:"cause"`
	Remedy string `json:"remedy"`
}

func (r refusal) fault() *flow.Fault {
	return &flow.Fault{Class: flow.Park, Code: r.Code, Op: r.Op, Object: r.Object, Cause: r.Cause, Remedy: r.Remedy}
}

func refuse(f *flow.Fault) refusal {
	return refusal{"error", f.Code, f.Op, f.Object, f.Cause, f.Remedy}
}

// errRequest marks a line that is no request.
var errRequest = errors.New("not a request")

// readRequest reads one line of at most maxRequest bytes.
func readRequest(r io.Reader) (q request, err error) {
	line, err := bufio.NewReaderSize(io.LimitReader(r, maxRequest), maxRequest).ReadSlice('\n')
	if err != nil {
		return q, fmt.Errorf("%w: %d bytes without an end of line", errRequest, len(line))
	}
	if err := json.Unmarshal(line, &q); err != nil {
		return q, fmt.Errorf("%w: %w", errRequest, err)
	}
	switch {
	case q.Do != "report" && q.Do != "watch" && q.Do != "tune":
		return q, fmt.Errorf("%w: it knows report, watch and tune", errRequest)
	case (q.Do == "tune") != (len(q.Stages) > 0):
		return q, fmt.Errorf("%w: stages are for tune, which needs them", errRequest)
	case len(q.By) > maxWords || len(q.Why) > maxWords:
		return q, fmt.Errorf("%w: a text of more than %d bytes", errRequest, maxWords)
	}
	return q, nil
}

// answers reads the lines of an answer.
type answers struct{ in *bufio.Scanner }

func newAnswers(r io.Reader) answers {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 16<<10), maxAnswer)
	return answers{s}
}

// next decodes the next line into the form that its type says; io.EOF at the end.
// A refusal is returned as the *flow.Fault that it is.
func (a answers) next() (report *board.Report, tuned *Tuned, err error) {
	if !a.in.Scan() {
		if err := a.in.Err(); err != nil {
			return nil, nil, fmt.Errorf("read an answer: %w", err)
		}
		return nil, nil, io.EOF
	}
	var head struct{ Type string }
	if err := json.Unmarshal(a.in.Bytes(), &head); err != nil {
		return nil, nil, fmt.Errorf("read an answer: %w", err)
	}
	switch head.Type {
	case "status", "summary":
		report = &board.Report{}
		err = json.Unmarshal(a.in.Bytes(), report)
	case "tuned":
		tuned = &Tuned{}
		err = json.Unmarshal(a.in.Bytes(), tuned)
	case "error":
		var r refusal
		if err = json.Unmarshal(a.in.Bytes(), &r); err == nil {
			return nil, nil, r.fault()
		}
	default:
		err = fmt.Errorf("it is a %q, of a later version", head.Type)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read an answer: %w", err)
	}
	return report, tuned, nil
}
