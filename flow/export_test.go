package flow

// Inbox is where a worker is answered.
func Inbox(worker uint32) string { return inbox(worker) }
