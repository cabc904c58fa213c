// Package layout is the structures of a VHDX file as they are stored: headers,
// region table, metadata, parent locator, the arithmetic and the entries of the
// block allocation table, after the published specification [MS-VHDX]; section
// numbers in comments are its. It is what reader, log and writers share.
//
// Parsers take bytes that anybody may have made: they check what they return and
// bound what they allocate. Errors are vdisk.ErrFormat for broken rules,
// vdisk.ErrTruncated for a file that ends too early, vdisk.ErrUnsupported for
// what another version may be able to read.
//
// The package knows nothing of the log's entries (see vdisk/vhdx/journal) and of
// the order in which things are written (see vdisk/vhdx/create and
// vdisk/vhdx/inplace).
//
// [MS-VHDX]: https://learn.microsoft.com/en-us/openspecs/windows_protocols/ms-vhdx/
package layout
