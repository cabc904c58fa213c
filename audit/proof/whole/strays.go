package whole

import (
	"context"
	"fmt"
	"slices"

	"github.com/millrace-backup/millrace/vault/store"
)

// maxStrays bounds how many are named one by one.
const maxStrays = 50

// Strays names, a line for each, what is in the place of the vault and is no object. Where
// one took the place of an object, that is missing; the rest is nobody's business, but
// somebody may want to know.
func Strays(ctx context.Context, vault store.Store) (lines []string, err error) {
	st, ok := vault.(store.Surveyor)
	if !ok {
		return nil, nil
	}
	more := 0
	for s, err := range st.Strays(ctx) {
		if err != nil {
			return nil, err
		}
		if len(lines) == maxStrays {
			more++
			continue
		}
		lines = append(lines, fmt.Sprintf("%q is not of the vault: %s", s.Name, s.What))
	}
	slices.Sort(lines)
	if more > 0 {
		lines = append(lines, fmt.Sprintf("%d more are not of the vault", more))
	}
	return lines, nil
}
