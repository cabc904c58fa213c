package runs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
	"github.com/millrace-backup/millrace/cmd/millrace/session"
	"github.com/millrace-backup/millrace/conductor/runs"
	"github.com/millrace-backup/millrace/hypervisor/qemu/host"
	"github.com/millrace-backup/millrace/vault"
)

// size reads a number of bytes; empty means 0.
func size(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > 1<<50 {
		return 0, fault.Usage("%s %s: that is no size, such as 256MiB", flag, text)
	}
	return int64(n), nil
}

func (a verb) superviseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "supervise", Short: "Keep a run going; run start and resume start these", Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			return supervise(c.Context(), a.App, []string{exe, "stage", StageName})
		},
	}
}

// readingKeys are the keys that reading needs, and no others.
func readingKeys(v *session.Vault) ([]byte, error) {
	return v.Keys.Grant(vault.PartMeta | vault.PartData | vault.PartIDs)
}

// supervised starts the supervisor of a run with these keys, and returns when the guest runs or
// its disks are served.
func (a verb) supervised(ctx context.Context, grant []byte, r *runs.Run) (notes []string, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(r.Folder(), "stage.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(exe, "run", "supervise") // and not with ctx, which it outlives
	cmd.Stderr, cmd.Dir = log, r.Folder()
	host.Detach(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(order{Folder: filepath.Dir(filepath.Dir(r.Folder())), Run: r.ID.String(), Grant: grant})
	if err == nil {
		_, err = in.Write(append(b, '\n'))
	}
	if err := errors.Join(err, in.Close()); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	stop := context.AfterFunc(ctx, func() { _ = out.Close() })
	defer stop()
	var said told
	if lines := bufio.NewScanner(out); lines.Scan() {
		err = json.Unmarshal(lines.Bytes(), &said)
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, err
	case said.Ready:
		return said.Notes, nil
	case said.Error != "":
		return nil, errors.Join(errors.New(said.Error), cmd.Wait())
	}
	err = cmd.Wait()
	text, _ := os.ReadFile(log.Name())
	return nil, fmt.Errorf("the supervisor ended (%v): %s", err, bytes.TrimSpace(text[max(0, len(text)-600):]))
}
