package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/millrace-backup/millrace/blockdev/nbd/wire"
)

// ErrOldStyle says that the server has no options to negotiate, as those of before 2012.
var ErrOldStyle = errors.New("the server speaks the old NBD, without options")

// ErrNoContext is what every [MissingContextError] is.
var ErrNoContext = errors.New("the export has no such metadata context")

// MissingContextError says which of the wanted contexts an export does not have.
type MissingContextError struct{ Contexts []string }

func (e *MissingContextError) Error() string {
	return fmt.Sprintf("%v: %s", ErrNoContext, strings.Join(e.Contexts, ", "))
}

// Unwrap returns ErrNoContext.
func (e *MissingContextError) Unwrap() error { return ErrNoContext }

// RefusedError is a server's refusal of an option of the handshake.
type RefusedError struct {
	Option  uint32
	Reply   uint32
	Message string // the server's, for people; may be empty
}

func (e *RefusedError) Error() string {
	what := map[uint32]string{
		wire.OptStartTLS: "TLS", wire.OptGo: "to open the export", wire.OptStructured: "structured replies", wire.OptSetMeta: "the metadata contexts",
	}[e.Option]
	why := map[uint32]string{
		wire.RefusedUnsupported: "it does not know of that", wire.RefusedPolicy: "its policy forbids it", wire.RefusedInvalid: "it finds it invalid",
		wire.RefusedPlatform: "its system cannot do that", wire.RefusedTLS: "it wants TLS", wire.RefusedUnknown: "it has no such export",
		wire.RefusedShutdown: "it is shutting down", wire.RefusedBlockSize: "it wants its block size to be asked for",
	}[e.Reply]
	if why == "" {
		why = fmt.Sprintf("reply %#x", e.Reply)
	}
	if e.Message != "" {
		why += fmt.Sprintf(": %q", e.Message)
	}
	return fmt.Sprintf("the server refuses %s: %s", what, why)
}

// BlockSize is what the server says of the sizes of requests, in bytes.
type BlockSize struct {
	Min       int64 // offsets and lengths must be multiples of it; reads need not, we see to them
	Preferred int64
	Max       int64 // of one read or write; longer ones are split
}

// metaContext is a metadata context of an open export.
type metaContext struct {
	id   uint32 // by which replies name it
	name string
}

// export is what the server says of an export when it is opened.
type export struct {
	size     int64
	flags    Flags // 0: it has not told
	block    BlockSize
	contexts []metaContext
}

// greet is the beginning of a connection, before any option.
func greet(rw io.ReadWriter) error {
	var hello [18]byte
	if _, err := io.ReadFull(rw, hello[:16]); err != nil {
		return err
	}
	first, second := binary.BigEndian.Uint64(hello[:]), binary.BigEndian.Uint64(hello[8:])
	switch {
	case first == wire.MagicHello && second == wire.MagicOld:
		return ErrOldStyle
	case first != wire.MagicHello || second != wire.MagicOption:
		return broken("it begins with %x", hello[:16])
	}
	if _, err := io.ReadFull(rw, hello[16:]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint16(hello[16:])
	if flags&wire.FlagFixed == 0 {
		return ErrOldStyle
	}
	_, err := rw.Write(binary.BigEndian.AppendUint32(nil, uint32(flags&(wire.FlagFixed|wire.FlagNoZeroes))))
	return err
}

// negotiate opens an export on a connection that has been greeted.
func negotiate(rw io.ReadWriter, name string, contexts []string) (export, error) {
	e := export{block: BlockSize{Min: 1, Preferred: 4096, Max: maxRequest}}
	if len(name) > maxName || len(contexts) > maxContexts || slices.ContainsFunc(contexts, func(c string) bool { return len(c) > maxName }) {
		return e, fmt.Errorf("a name of more than %d bytes, or more than %d contexts", maxName, maxContexts)
	}
	if err := option(rw, wire.OptStructured, nil, nil); err != nil {
		return e, err
	}
	if err := e.setContexts(rw, name, contexts); err != nil {
		return e, err
	}
	ask := append(binary.BigEndian.AppendUint32(nil, uint32(len(name))), name...)
	ask = binary.BigEndian.AppendUint16(ask, 1)
	ask = binary.BigEndian.AppendUint16(ask, wire.InfoBlockSize)
	err := option(rw, wire.OptGo, ask, func(kind uint32, b []byte) error {
		if kind != wire.RepInfo || len(b) < 2 {
			return broken("reply %#x of %d bytes to the opening of the export", kind, len(b))
		}
		return e.info(binary.BigEndian.Uint16(b), b[2:])
	})
	if err == nil && e.flags == 0 {
		err = broken("it opens an export without saying how large it is")
	}
	return e, err
}

func (e *export) info(kind uint16, b []byte) error {
	switch {
	case kind == wire.InfoExport && len(b) == 10 && e.flags == 0:
		e.size, e.flags = int64(binary.BigEndian.Uint64(b)), Flags(binary.BigEndian.Uint16(b[8:]))
		if e.size < 0 || e.flags&HasFlags == 0 {
			return broken("an export of %d bytes with flags %#x", uint64(e.size), uint16(e.flags))
		}
	case kind == wire.InfoBlockSize && len(b) == 12:
		least, most := int64(binary.BigEndian.Uint32(b)), int64(binary.BigEndian.Uint32(b[8:]))
		if least < 1 || least > maxMinBlock || least&(least-1) != 0 || most < max(least, 512) {
			return broken("requests of %d to %d bytes", least, most)
		}
		most = min(most, maxRequest)
		e.block = BlockSize{Min: least, Preferred: int64(binary.BigEndian.Uint32(b[4:])), Max: most - most%least}
	case kind == wire.InfoExport || kind == wire.InfoBlockSize:
		return broken("information %d of %d bytes", kind, len(b))
	}
	return nil
}

func (e *export) setContexts(rw io.ReadWriter, name string, contexts []string) error {
	if len(contexts) == 0 {
		return nil
	}
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(name))), name...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(contexts)))
	for _, c := range contexts {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(c))), c...)
	}
	err := option(rw, wire.OptSetMeta, b, func(kind uint32, b []byte) error {
		if kind != wire.RepMeta || len(b) < 4 {
			return broken("reply %#x of %d bytes to the contexts", kind, len(b))
		}
		m := metaContext{id: binary.BigEndian.Uint32(b), name: string(b[4:])}
		if !slices.Contains(contexts, m.name) || slices.ContainsFunc(e.contexts, func(o metaContext) bool { return o.id == m.id || o.name == m.name }) {
			return broken("context %d, %.100q, which was not asked for or is told of twice", m.id, m.name)
		}
		e.contexts = append(e.contexts, m)
		return nil
	})
	var refused *RefusedError
	if err != nil && !(errors.As(err, &refused) && refused.Reply == wire.RefusedUnsupported) {
		return err
	}
	var missing []string
	for _, want := range contexts {
		if !slices.ContainsFunc(e.contexts, func(m metaContext) bool { return m.name == want }) {
			missing = append(missing, want)
		}
	}
	if len(missing) > 0 {
		return &MissingContextError{Contexts: missing}
	}
	return nil
}

// option sends an option and calls each for the replies before the last.
func option(rw io.ReadWriter, number uint32, data []byte, each func(kind uint32, b []byte) error) error {
	b := binary.BigEndian.AppendUint64(nil, wire.MagicOption)
	b = binary.BigEndian.AppendUint32(b, number)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if _, err := rw.Write(append(b, data...)); err != nil {
		return err
	}
	for range maxReplies {
		var head [20]byte
		if _, err := io.ReadFull(rw, head[:]); err != nil {
			return err
		}
		kind, size := binary.BigEndian.Uint32(head[12:]), binary.BigEndian.Uint32(head[16:])
		if binary.BigEndian.Uint64(head[:]) != wire.MagicReply || binary.BigEndian.Uint32(head[8:]) != number || size > maxOptionReply {
			return broken("reply %x to option %d", head[:], number)
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(rw, body); err != nil {
			return err
		}
		switch {
		case kind&wire.RepErrorBit != 0:
			return &RefusedError{Option: number, Reply: kind, Message: string(body[:min(len(body), maxError)])}
		case kind == wire.RepAck:
			return nil
		case each == nil:
			return broken("reply %#x to option %d", kind, number)
		}
		if err := each(kind, body); err != nil {
			return err
		}
	}
	return broken("more than %d replies to option %d", maxReplies, number)
}
