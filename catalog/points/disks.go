package points

import (
	"github.com/millrace-backup/millrace/events"
	"github.com/millrace-backup/millrace/flow"
	"github.com/millrace-backup/millrace/id"
)

// SameDisk finds the disk in the parent. One that has another size now is a new
// disk: layers below could show what lay behind the old end.
func SameDisk(p *events.PointCommitted, info events.DiskInfo) *events.PointDisk {
	for i := range p.Disks {
		if d := &p.Disks[i]; d.Disk == info.Disk && d.Size == info.VirtualSize && len(d.Extents) > 0 {
			return d
		}
	}
	return nil
}

// Since is the tracking token that a disk had at a point.
func Since(p *events.PointCommitted, disk id.Disk) []byte {
	for i := range p.Disks {
		if p.Disks[i].Disk == disk {
			return p.Disks[i].Token
		}
	}
	return nil
}

// HoleBytes is what a plan of a disk leaves out, given a bit for each of its parcels.
func HoleBytes(w *flow.Work, n int, cells []byte) (bytes int64) {
	size := w.Disks[n].Info.VirtualSize
	for k := range w.Parcels(n) {
		if cells[k/8]&(1<<(k%8)) == 0 {
			bytes += min(w.ParcelSize, size-int64(k)*w.ParcelSize)
		}
	}
	return bytes
}

// Add counts a disk in what a job says of itself at its end.
func Add(f *events.JobFinished, d events.DiskSealed) {
	f.DiskBytes += d.Size
	f.ReadBytes += d.ReadBytes
	f.ZeroBytes += d.ZeroBytes
	f.UnchangedBytes += d.UnchangedBytes
	f.KnownBytes += d.KnownBytes
	f.NewBytes += d.NewBytes
}
