// Package control is how other processes of the same user watch a running job and
// tune it: a socket in the job's folder, with lines of JSON in both directions.
//
// The conductor calls [Listen] with its [Job], [Server.Publish] when there is
// something new to see, and [Server.Close] with the last report. Others call [Find]
// with the state folder and a job's name, and then [Running.Report], [Running.Watch]
// or [Running.Tune].
//
// A client sends one line, {"do":"report"}, {"do":"watch"} or
// {"do":"tune","stages":{"seal":3},"why":"..."}, and reads lines until the server
// closes. docs/format/control.md has the whole of it.
//
// Guarantees. The socket can be used by the user that runs the job (and the
// system's administrator): its mode is 0600, in a folder of mode 0700; where the
// system tells, who connects is asked for too, and is who the ledger names. A request
// is read up to 4 KiB and for 5 s, at most 32 connections are served at once, and one
// that does not read loses its connection: no client can hold the job up. What a client
// reads is bounded as well. A socket that a killed job has left is not a running job.
//
// The socket works where Go has Unix sockets, Windows 10 and later included. A path
// that is too long for one is reached through a link in the temporary folder.
package control
