// Command millrace backs up virtual machines into a vault and gets them back.
//
// Each verb is a file of its own and is wired here by hand: it takes its
// settings from the app value that root.go fills, calls the library that does
// the work, and prints what came of it. Nothing is global: run takes arguments and
// returns the exit code, and the app has the streams, so that a test can call it as
// the shell would.
//
// Promises, on which scripts rely: stdout is data and stderr is for people;
// --json gives one object or lines of objects on stdout, errors included; exit
// codes and error codes are those of docs/operator.md (package fault is where they
// are decided); a secret never comes from or goes to a command line.
//
// The same program is every process of a job: "millrace stage NAME" is what the
// conductor starts, and of no use to a person.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/millrace-backup/millrace/cmd/millrace/fault"
)

func main() { start(newApp(os.Stdin, os.Stdout, os.Stderr)) }

// start carries out the command line that the process was started with, and ends it.
func start(a *app) {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { os.Exit(interrupt(signals, stop, os.Stderr)) }()
	os.Exit(a.run(ctx, os.Args[1:]))
}

// interrupt ends the program in good order at the first signal, and returns, to end
// it at once, at the second: whoever asks twice does not want to wait, and what a kill
// leaves is safe.
func interrupt(signals <-chan os.Signal, stop func(), stderr io.Writer) int {
	<-signals
	stop()
	<-signals
	fmt.Fprintln(stderr, "millrace: interrupted again: ended at once; what is stored stays, and the next job finds it")
	return fault.ExitInterrupted
}

// run is the whole program: it carries out one command line and returns the
// exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return fault.ExitDone
	}
	if ctx.Err() != nil {
		err = fault.Interrupted(err)
	}
	f := fault.Of(err)
	if !f.Reported {
		a.reportFault(f, a.Settings.JSON || asksForJSON(args))
	}
	return f.Exit()
}
