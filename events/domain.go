package events

import "github.com/millrace-backup/millrace/id"

// DomainKeyed says that a guest has a dedup domain of its own, whose keys are in the
// object that its segment brings in: the first of a domain makes it, a later one
// gives it a fresh key after a rotation. The guest's points are sealed in it from here
// on, until it is shredded.
// Written by backup, before the job, unless the guest has one. Read by backup, forget,
// catalog and audit.
type DomainKeyed struct {
	Guest      id.Guest   `json:"guest"`
	GuestName  string     `json:"guest_name"`
	Domain     DomainInfo `json:"domain"`
	Generation uint32     `json:"generation"` // of the vault's keys, which seal the object
	Why        string     `json:"why"`        // asked, shredded: it had one before, rotated
	By         string     `json:"by"`         // OS user
}

// DomainShredded says that a guest's own domain is to be readable by nobody: its
// segment retires all objects with keys of it, which are deleted as soon as it is
// durable, and comes with a PointForgotten for each point of the guest.
// Written by forget --shred. Read by backup, prune, indexer (before commit), catalog
// and audit.
type DomainShredded struct {
	Guest  id.Guest  `json:"guest"`
	Domain id.Domain `json:"domain"`
	Points uint32    `json:"points"` // that went with it
	Why    string    `json:"why"`
	By     string    `json:"by"` // OS user
}
