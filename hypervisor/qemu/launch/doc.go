// Package launch starts guests in QEMU whose disks are served over NBD, and watches and
// ends them.
//
// A [Spec] says what a guest is: the configuration that its point kept, or nothing but disks.
// [Args] makes QEMU's command line of it, and says what of the configuration cannot be had
// here. [Start] runs QEMU as a process in a session of its own, so that the guest outlives
// whoever started it; [Find] finds it again by its folder. A [Guest] is asked and told
// things through QMP.
//
// The disks wait for their server: when it goes away QEMU connects again for
// Spec.Reconnect, the guest's requests hang meanwhile, and after that they fail, which
// pauses the guest rather than telling it. [Guest.Continue] lets it go on when the server is back.
//
// What comes out of a point is foreign: whatever a configuration says, it can only choose
// among the machines, devices and models that are listed here, and names are quoted.
//
// Linux only; elsewhere Start says so.
package launch
