package server

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/blockdev/nbd"
	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
)

// Bounds of a handshake.
const (
	maxOptions = 64
	maxOption  = 64 << 10
)

// allocation is the number by which replies name the one metadata context.
const allocation = 1

// handshake is a connection before an export is open.
type handshake struct {
	s          *Server
	conn       net.Conn
	noZeroes   bool
	structured bool
	contexts   bool   // the allocation of
	of         string // this export
	export     *Export
}

var errOver = errors.New("the client has left")

func broken(format string, args ...any) error {
	return fmt.Errorf("the client does not speak NBD as it must: %s", fmt.Sprintf(format, args...))
}

// run is the handshake, whole. At its end export is set, unless there is an error.
func (h *handshake) run(ctx context.Context) error {
	hello := binary.BigEndian.AppendUint64(nil, wire.MagicHello)
	hello = binary.BigEndian.AppendUint64(hello, wire.MagicOption)
	hello = binary.BigEndian.AppendUint16(hello, wire.FlagFixed|wire.FlagNoZeroes)
	if _, err := h.conn.Write(hello); err != nil {
		return err
	}
	var b [16]byte
	if _, err := io.ReadFull(h.conn, b[:4]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(b[:])
	if flags&^(wire.FlagFixed|wire.FlagNoZeroes) != 0 || flags&wire.FlagFixed == 0 {
		return broken("flags %#x", flags)
	}
	h.noZeroes = flags&wire.FlagNoZeroes != 0
	for range maxOptions {
		if _, err := io.ReadFull(h.conn, b[:]); err != nil {
			return err
		}
		number, size := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
		if binary.BigEndian.Uint64(b[:]) != wire.MagicOption || size > maxOption {
			return broken("option %x", b)
		}
		data := make([]byte, size)
		if _, err := io.ReadFull(h.conn, data); err != nil {
			return err
		}
		if err := h.option(ctx, number, data); err != nil || h.export != nil {
			return err
		}
	}
	return broken("more than %d options", maxOptions)
}

func (h *handshake) option(ctx context.Context, number uint32, data []byte) error {
	_, sealed := h.conn.(*tls.Conn)
	clear := h.s.o.TLS != nil && !sealed
	switch {
	case number == wire.OptAbort:
		_ = h.reply(number, wire.RepAck, nil)
		return errOver
	case number == wire.OptStartTLS:
		return h.startTLS(ctx, data, sealed)
	case number == wire.OptExportName && clear:
		return broken("an export without TLS")
	case number == wire.OptExportName:
		return h.exportName(string(data))
	case clear:
		return h.refuse(number, wire.RefusedTLS, "TLS first")
	case number == wire.OptList:
		return h.list(data)
	case number == wire.OptStructured && len(data) == 0:
		h.structured = true
		return h.reply(number, wire.RepAck, nil)
	case number == wire.OptStructured:
		return h.refuse(number, wire.RefusedInvalid, "it takes no data")
	case number == wire.OptInfo, number == wire.OptGo:
		return h.open(number, data)
	case number == wire.OptListMeta, number == wire.OptSetMeta:
		return h.meta(number, data)
	}
	return h.refuse(number, wire.RefusedUnsupported, "")
}

func (h *handshake) reply(number, kind uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, wire.MagicReply)
	b = binary.BigEndian.AppendUint32(b, number)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	_, err := h.conn.Write(append(b, data...))
	return err
}

func (h *handshake) refuse(number, kind uint32, why string) error {
	return h.reply(number, kind, []byte(why))
}

func (h *handshake) startTLS(ctx context.Context, data []byte, sealed bool) error {
	switch {
	case h.s.o.TLS == nil:
		return h.refuse(wire.OptStartTLS, wire.RefusedPolicy, "this server has no TLS")
	case sealed || len(data) > 0:
		return h.refuse(wire.OptStartTLS, wire.RefusedInvalid, "")
	}
	if err := h.reply(wire.OptStartTLS, wire.RepAck, nil); err != nil {
		return err
	}
	c := tls.Server(h.conn, h.s.o.TLS)
	if err := c.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	// Whatever was said in the clear may have been said by somebody else.
	*h = handshake{s: h.s, conn: c, noZeroes: h.noZeroes}
	return nil
}

// flags are what an export can do.
func flags(e *Export) nbd.Flags {
	f := nbd.HasFlags | nbd.CanFlush | nbd.CanFUA | nbd.CanMultiConn
	if e.ReadOnly {
		return nbd.HasFlags | nbd.ReadOnly | nbd.CanFlush | nbd.CanMultiConn
	}
	if _, ok := e.Disk.(Zeroer); ok {
		f |= nbd.CanTrim | nbd.CanZero | nbd.CanFastZero
	}
	return f
}

// exportName is the old way to open one. It knows no refusal.
func (h *handshake) exportName(name string) error {
	e := h.s.exports[name]
	if e == nil {
		return broken("no export %.100q", name)
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(e.Size))
	b = binary.BigEndian.AppendUint16(b, uint16(flags(e)))
	if !h.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	if _, err := h.conn.Write(b); err != nil {
		return err
	}
	h.export = e
	return nil
}

func (h *handshake) list(data []byte) error {
	if len(data) > 0 {
		return h.refuse(wire.OptList, wire.RefusedInvalid, "it takes no data")
	}
	for n := range h.s.o.Exports {
		e := &h.s.o.Exports[n]
		b := binary.BigEndian.AppendUint32(nil, uint32(len(e.Name)))
		if err := h.reply(wire.OptList, wire.RepServer, append(append(b, e.Name...), e.Description...)); err != nil {
			return err
		}
	}
	return h.reply(wire.OptList, wire.RepAck, nil)
}

// text takes a string with its length before it off data.
func text(data []byte) (s string, rest []byte, ok bool) {
	if len(data) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(data)
	if uint64(n) > uint64(len(data)-4) || n > maxName {
		return "", nil, false
	}
	return string(data[4 : 4+n]), data[4+n:], true
}

func (h *handshake) open(number uint32, data []byte) error {
	name, rest, ok := text(data)
	if !ok || len(rest) < 2 || len(rest) != 2+2*int(binary.BigEndian.Uint16(rest)) {
		return h.refuse(number, wire.RefusedInvalid, "")
	}
	e := h.s.exports[name]
	if e == nil {
		return h.refuse(number, wire.RefusedUnknown, "")
	}
	info := binary.BigEndian.AppendUint16(nil, wire.InfoExport)
	info = binary.BigEndian.AppendUint64(info, uint64(e.Size))
	infos := [][]byte{binary.BigEndian.AppendUint16(info, uint16(flags(e)))}
	// Told to who does not ask as well: that a request must fit is good to know.
	size := binary.BigEndian.AppendUint16(nil, wire.InfoBlockSize)
	for _, n := range []int64{e.Block, 4096, maxRequest} {
		size = binary.BigEndian.AppendUint32(size, uint32(n))
	}
	infos = append(infos, size)
	for rest = rest[2:]; len(rest) > 0; rest = rest[2:] {
		switch kind := binary.BigEndian.Uint16(rest); {
		case kind == wire.InfoName:
			infos = append(infos, append(binary.BigEndian.AppendUint16(nil, kind), e.Name...))
		case kind == wire.InfoDescription && e.Description != "":
			infos = append(infos, append(binary.BigEndian.AppendUint16(nil, kind), e.Description...))
		}
	}
	for _, b := range infos[:min(len(infos), 8)] {
		if err := h.reply(number, wire.RepInfo, b); err != nil {
			return err
		}
	}
	if err := h.reply(number, wire.RepAck, nil); err != nil || number == wire.OptInfo {
		return err
	}
	h.contexts = h.contexts && h.of == e.Name
	h.export = e
	return nil
}

func (h *handshake) meta(number uint32, data []byte) error {
	name, rest, ok := text(data)
	if !ok || len(rest) < 4 || !h.structured {
		return h.refuse(number, wire.RefusedInvalid, "")
	}
	e := h.s.exports[name]
	if e == nil {
		return h.refuse(number, wire.RefusedUnknown, "")
	}
	n := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	var asked []string
	for range n { // each takes four bytes of data, which is bounded
		var q string
		if q, rest, ok = text(rest); !ok {
			return h.refuse(number, wire.RefusedInvalid, "")
		}
		asked = append(asked, q)
	}
	if len(rest) > 0 {
		return h.refuse(number, wire.RefusedInvalid, "")
	}
	_, maps := e.Disk.(Mapper)
	found := slices.ContainsFunc(asked, func(q string) bool {
		return q == nbd.Allocation || number == wire.OptListMeta && strings.TrimSuffix(q, "allocation") == "base:"
	}) || number == wire.OptListMeta && n == 0
	found = found && maps
	if number == wire.OptSetMeta {
		h.contexts, h.of = found, name
	}
	if found {
		if err := h.reply(number, wire.RepMeta, append(binary.BigEndian.AppendUint32(nil, allocation), nbd.Allocation...)); err != nil {
			return err
		}
	}
	return h.reply(number, wire.RepAck, nil)
}
