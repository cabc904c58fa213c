package events

// Kinds lists every kind of fact this program knows, in the order in which a
// vault usually meets them.
func Kinds() []string {
	return []string{
		"VaultCreated",
		"KeyAdded",
		"KeyRemoved",
		"KeyAnnounced",
		"KeyDeleted",
		"KeysRotated",
		"SetDefined",
		"JobStarted",
		"GuestsSelected",
		"GuestInspected",
		"SnapshotTaken",
		"ChangesResolved",
		"StageStarted",
		"StageStopped",
		"StageScaled",
		"PackStored",
		"ChunksStored",
		"ExtentsMapped",
		"DiskSealed",
		"PointCommitted",
		"StateHashed",
		"SnapshotReleased",
		"JobFinished",
		"JobFenced",
		"PointVerified",
		"ChunkWithdrawn",
		"PointPinned",
		"PointUnpinned",
		"PointForgotten",
		"PacksRetired",
		"TableReplaced",
		"ObjectsDeleted",
		"ReaderPinned",
		"RunStarted",
		"RunKept",
		"RunFinalized",
		"RunDiscarded",
		"PointRestored",
		"FilesRestored",
		"RollbackAccepted",
		"DomainKeyed",
		"DomainShredded",
	}
}

// Kind names the fact on the wire.
func (VaultCreated) Kind() string { return "VaultCreated" }

// Kind names the fact on the wire.
func (KeyAdded) Kind() string { return "KeyAdded" }

// Kind names the fact on the wire.
func (KeyRemoved) Kind() string { return "KeyRemoved" }

// Kind names the fact on the wire.
func (KeyAnnounced) Kind() string { return "KeyAnnounced" }

// Kind names the fact on the wire.
func (KeyDeleted) Kind() string { return "KeyDeleted" }

// Kind names the fact on the wire.
func (KeysRotated) Kind() string { return "KeysRotated" }

// Kind names the fact on the wire.
func (SetDefined) Kind() string { return "SetDefined" }

// Kind names the fact on the wire.
func (JobStarted) Kind() string { return "JobStarted" }

// Kind names the fact on the wire.
func (GuestsSelected) Kind() string { return "GuestsSelected" }

// Kind names the fact on the wire.
func (GuestInspected) Kind() string { return "GuestInspected" }

// Kind names the fact on the wire.
func (SnapshotTaken) Kind() string { return "SnapshotTaken" }

// Kind names the fact on the wire.
func (ChangesResolved) Kind() string { return "ChangesResolved" }

// Kind names the fact on the wire.
func (StageStarted) Kind() string { return "StageStarted" }

// Kind names the fact on the wire.
func (StageStopped) Kind() string { return "StageStopped" }

// Kind names the fact on the wire.
func (StageScaled) Kind() string { return "StageScaled" }

// Kind names the fact on the wire.
func (PackStored) Kind() string { return "PackStored" }

// Kind names the fact on the wire.
func (ChunksStored) Kind() string { return "ChunksStored" }

// Kind names the fact on the wire.
func (ExtentsMapped) Kind() string { return "ExtentsMapped" }

// Kind names the fact on the wire.
func (DiskSealed) Kind() string { return "DiskSealed" }

// Kind names the fact on the wire.
func (PointCommitted) Kind() string { return "PointCommitted" }

// Kind names the fact on the wire.
func (StateHashed) Kind() string { return "StateHashed" }

// Kind names the fact on the wire.
func (SnapshotReleased) Kind() string { return "SnapshotReleased" }

// Kind names the fact on the wire.
func (JobFinished) Kind() string { return "JobFinished" }

// Kind names the fact on the wire.
func (JobFenced) Kind() string { return "JobFenced" }

// Kind names the fact on the wire.
func (PointVerified) Kind() string { return "PointVerified" }

// Kind names the fact on the wire.
func (ChunkWithdrawn) Kind() string { return "ChunkWithdrawn" }

// Kind names the fact on the wire.
func (PointForgotten) Kind() string { return "PointForgotten" }

// Kind names the fact on the wire.
func (PacksRetired) Kind() string { return "PacksRetired" }

// Kind names the fact on the wire.
func (ReaderPinned) Kind() string { return "ReaderPinned" }

// Kind names the fact on the wire.
func (RunStarted) Kind() string { return "RunStarted" }

// Kind names the fact on the wire.
func (RunKept) Kind() string { return "RunKept" }

// Kind names the fact on the wire.
func (RunFinalized) Kind() string { return "RunFinalized" }

// Kind names the fact on the wire.
func (RunDiscarded) Kind() string { return "RunDiscarded" }

// Kind names the fact on the wire.
func (PointRestored) Kind() string { return "PointRestored" }

// Kind names the fact on the wire.
func (FilesRestored) Kind() string { return "FilesRestored" }

// Kind names the fact on the wire.
func (PointPinned) Kind() string { return "PointPinned" }

// Kind names the fact on the wire.
func (PointUnpinned) Kind() string { return "PointUnpinned" }

// Kind names the fact on the wire.
func (TableReplaced) Kind() string { return "TableReplaced" }

// Kind names the fact on the wire.
func (ObjectsDeleted) Kind() string { return "ObjectsDeleted" }

// Kind names the fact on the wire.
func (DomainKeyed) Kind() string { return "DomainKeyed" }

// Kind names the fact on the wire.
func (DomainShredded) Kind() string { return "DomainShredded" }

// Kind names the fact on the wire.
func (RollbackAccepted) Kind() string { return "RollbackAccepted" }

// decodeFact decodes the fact of a record. A kind that is not in the list was
// written by a later program and is kept as it is.
func decodeFact(kind string, body []byte) (Fact, error) {
	switch kind {
	case "VaultCreated":
		return decodeAs[VaultCreated](body)
	case "KeyAdded":
		return decodeAs[KeyAdded](body)
	case "KeyRemoved":
		return decodeAs[KeyRemoved](body)
	case "KeyAnnounced":
		return decodeAs[KeyAnnounced](body)
	case "KeyDeleted":
		return decodeAs[KeyDeleted](body)
	case "KeysRotated":
		return decodeAs[KeysRotated](body)
	case "SetDefined":
		return decodeAs[SetDefined](body)
	case "JobStarted":
		return decodeAs[JobStarted](body)
	case "GuestsSelected":
		return decodeAs[GuestsSelected](body)
	case "GuestInspected":
		return decodeAs[GuestInspected](body)
	case "SnapshotTaken":
		return decodeAs[SnapshotTaken](body)
	case "ChangesResolved":
		return decodeAs[ChangesResolved](body)
	case "StageStarted":
		return decodeAs[StageStarted](body)
	case "StageStopped":
		return decodeAs[StageStopped](body)
	case "StageScaled":
		return decodeAs[StageScaled](body)
	case "PackStored":
		return decodeAs[PackStored](body)
	case "ChunksStored":
		return decodeAs[ChunksStored](body)
	case "ExtentsMapped":
		return decodeAs[ExtentsMapped](body)
	case "DiskSealed":
		return decodeAs[DiskSealed](body)
	case "PointCommitted":
		return decodeAs[PointCommitted](body)
	case "StateHashed":
		return decodeAs[StateHashed](body)
	case "SnapshotReleased":
		return decodeAs[SnapshotReleased](body)
	case "JobFinished":
		return decodeAs[JobFinished](body)
	case "JobFenced":
		return decodeAs[JobFenced](body)
	case "PointVerified":
		return decodeAs[PointVerified](body)
	case "ChunkWithdrawn":
		return decodeAs[ChunkWithdrawn](body)
	case "PointForgotten":
		return decodeAs[PointForgotten](body)
	case "PacksRetired":
		return decodeAs[PacksRetired](body)
	case "PointPinned":
		return decodeAs[PointPinned](body)
	case "PointUnpinned":
		return decodeAs[PointUnpinned](body)
	case "TableReplaced":
		return decodeAs[TableReplaced](body)
	case "ObjectsDeleted":
		return decodeAs[ObjectsDeleted](body)
	case "ReaderPinned":
		return decodeAs[ReaderPinned](body)
	}
	return decodeRest(kind, body)
}

// decodeRest is decodeFact for what few ledgers have much of.
func decodeRest(kind string, body []byte) (Fact, error) {
	switch kind {
	case "DomainKeyed":
		return decodeAs[DomainKeyed](body)
	case "DomainShredded":
		return decodeAs[DomainShredded](body)
	case "RunStarted":
		return decodeAs[RunStarted](body)
	case "RunKept":
		return decodeAs[RunKept](body)
	case "RunFinalized":
		return decodeAs[RunFinalized](body)
	case "RunDiscarded":
		return decodeAs[RunDiscarded](body)
	case "PointRestored":
		return decodeAs[PointRestored](body)
	case "FilesRestored":
		return decodeAs[FilesRestored](body)
	case "RollbackAccepted":
		return decodeAs[RollbackAccepted](body)
	}
	return Unknown{Name: kind, Body: body}, nil
}
