// Package prove holds what one asks the ledger: the verbs audit show, audit verify and
// audit replay.
//
// [Audit] returns the command with all three, bound to the App of the command line. show
// tells how a job went, verify proves every object of a vault unaltered, replay folds the
// ledger again and holds everything that claims to know the result against it. The work
// is done by packages audit, audit/proof and audit/replay; this one opens the vault, and
// prints what was found for people or, with --json, for scripts.
//
// None of them writes to the vault, unless --accept-rollback is given.
package prove

import (
	"github.com/spf13/cobra"

	"github.com/millrace-backup/millrace/cmd/millrace/session"
)

// verb gives the commands of this package what all verbs have in common.
type verb struct{ *session.App }

// Audit is the parent of what one asks the ledger.
func Audit(app *session.App) *cobra.Command {
	a := verb{app}
	c := &cobra.Command{
		Use:   "audit",
		Short: "Ask the ledger what happened, and prove it",
	}
	c.AddCommand(a.showCommand(), a.verifyCommand(), a.replayCommand())
	return c
}
