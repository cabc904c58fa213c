package part

import "os"

// hold has nothing to do: an open file cannot be removed here.
func hold(*os.File) {}

// removeUnheld removes a file; the system refuses it for one that is open.
func removeUnheld(folder *os.Root, name string) { _ = folder.Remove(name) }
