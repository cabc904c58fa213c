// Package filelock keeps a file for one process at a time, among those that ask.
//
// Call [Try] with a file that is open for writing. The lock lasts until [Free], or
// until the file is closed, by whatever end the process comes to, and no child inherits it. It keeps
// out nobody who does not ask, except on Windows, where the locked byte itself can
// be neither read nor written by others.
package filelock
