// Package export reads the tree of files that Hyper-V's export of a machine writes:
// "Virtual Machines", "Virtual Hard Disks" and "Snapshots", or the same files in one
// folder.
//
// [Is] tells such a tree, [Read] looks at all of it, [Tree.Identify] and then
// [Tree.Describe] make a guest of it. Package folder does so for its users; [Drop] is for
// those who do not want the tree. Whoever restores reads [ReadConfiguration] and [Names].
//
// Words. The *machine* is what the configuration in "Virtual Machines" describes; its
// *running state* are the disks that it names, each the merged view of an image and its
// parents, and these are the guest's disks. A *checkpoint* is a configuration of its own,
// that names older or other images. A *carried file* is a file of the tree, byte for byte:
// a disk of the guest with Carried set, that no machine has. With those the tree can be
// written back so that its checkpoints can be reverted to.
//
// Configurations and saved states are always carried. Images are carried where there is
// a checkpoint, an image laid on another or one that nobody can open; where there is none
// the disks alone say all, and their files would be read twice for nothing. Disks of a tree that is carried
// have their path in it (File), if their file can be.
//
// Which configuration is a checkpoint's tells the file itself (its kind is "Snapshots"), or a folder
// "Snapshots" above it, or else its disks: images that all lie below those of another.
// None that cannot be read fails anything: it is carried as bytes, and disks are
// taken as their files say. An image that cannot be opened fails the guest only if the
// machine runs on it, or nobody knows what it runs on.
//
// A tree has at most 20,000 files, of which 800 are carried. Paths of these are written
// with slashes, and are such as Windows takes too ([CheckPath]). An image at another path
// is a disk all the same, unless others are laid on it; its file is not carried, which is
// said.
// Nothing is written.
package export
