package relay_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/millrace-backup/millrace/bench/relay"
	"github.com/millrace-backup/millrace/flow"
)

// The test binary is the worker, too: the stage's name is its last argument.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "relay-worker" {
		if err := relay.Worker(context.Background(), os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// All parcels arrive, by claim and inline, however many there are.
func TestEveryParcelArrives(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]relay.Options{
		"claim":  {Parcels: 100, CPUs: 2, Transport: flow.Claim},
		"inline": {Parcels: 10, CPUs: 2, Transport: flow.Inline},
		"one":    {Parcels: 1, CPUs: 1, Transport: flow.Claim},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			o.Command, o.Dir = []string{exe, "relay-worker"}, t.TempDir()
			if err := relay.Conduct(ctx, o); err != nil {
				t.Fatal(err)
			}
			if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
	if relay.Conduct(t.Context(), relay.Options{Dir: t.TempDir()}) == nil {
		t.Error("a job without parcels was run")
	}
}
