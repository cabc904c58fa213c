package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What the protocol is made of. All integers are big-endian.
const (
	magicHello  = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption = 0x49484156454f5054 // "IHAVEOPT"
	magicReply  = 0x0003e889045565a9 // to an option
	magicAsk    = 0x25609513
	magicSimple = 0x67446698
	magicChunk  = 0x668e33ef

	flagFixed    = 1 << 0 // of the handshake, both ways
	flagNoZeroes = 1 << 1

	optGo         = 7
	optStructured = 8
	optSetMeta    = 10

	repAck      = 1
	repInfo     = 3
	repMeta     = 4
	repErrorBit = 1 << 31

	infoExport    = 0
	infoBlockSize = 3

	cmdRead   = 0
	cmdDisc   = 2
	cmdStatus = 7

	chunkNone        = 0
	chunkData        = 1
	chunkHole        = 2
	chunkStatus      = 5
	chunkErrorBit    = 1 << 15
	chunkErrorOffset = chunkErrorBit + 2
	chunkDone        = 1 // flag
)

// Bounds of what a server may send.
const (
	maxOptionReply = 64 << 10
	maxReplies     = 64 // to one option
	maxChunks      = 1 << 16
	maxExtents     = 1 << 20 // in one reply
	maxError       = 4 << 10
	maxName        = 4096
	maxRequest     = 32 << 20 // of ours, where the server sets no limit
)

// ErrProtocol says that the server does not keep to the protocol.
var ErrProtocol = errors.New("the server does not speak NBD as it must")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// Errno is an error number of the protocol.
type Errno uint32

// The numbers that the protocol knows.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

func (e Errno) Error() string {
	switch e {
	case EPERM:
		return "not permitted"
	case EIO:
		return "input/output error"
	case ENOMEM:
		return "the server has no memory"
	case EINVAL:
		return "refused as invalid"
	case ENOSPC:
		return "no space left"
	case EOVERFLOW:
		return "too large"
	case ENOTSUP:
		return "not supported"
	case ESHUTDOWN:
		return "the server is shutting down"
	}
	return fmt.Sprintf("error %d", uint32(e))
}

// RefusedError is a server's refusal of an option of the handshake.
type RefusedError struct {
	Option  uint32
	Reply   uint32
	Message string // the server's, for people; may be empty
}

func (e *RefusedError) Error() string {
	what := map[uint32]string{optGo: "to open the export", optStructured: "structured replies", optSetMeta: "the metadata contexts"}[e.Option]
	why := map[uint32]string{
		repErrorBit + 1: "it does not know of that", repErrorBit + 2: "its policy forbids it", repErrorBit + 3: "it finds it invalid",
		repErrorBit + 5: "it wants TLS", repErrorBit + 6: "it has no such export", repErrorBit + 7: "it is shutting down",
	}[e.Reply]
	if why == "" {
		why = fmt.Sprintf("reply %#x", e.Reply)
	}
	if e.Message != "" {
		why += ": " + e.Message
	}
	return fmt.Sprintf("the server refuses %s: %s", what, why)
}

// export is what the server says of an export when it is opened.
type export struct {
	size       int64
	flags      uint16
	maxRequest uint32
	contexts   map[uint32]string // by the number that replies have
}

// handshake opens an export on a fresh connection.
func handshake(rw io.ReadWriter, name string, contexts []string) (export, error) {
	e := export{contexts: map[uint32]string{}}
	if len(name) > maxName {
		return e, fmt.Errorf("a name of %d bytes", len(name))
	}
	var hello [18]byte
	if _, err := io.ReadFull(rw, hello[:]); err != nil {
		return e, err
	}
	if binary.BigEndian.Uint64(hello[:]) != magicHello || binary.BigEndian.Uint64(hello[8:]) != magicOption {
		return e, broken("it begins with %x", hello[:16])
	}
	flags := binary.BigEndian.Uint16(hello[16:])
	if flags&flagFixed == 0 {
		return e, broken("it knows no options")
	}
	if _, err := rw.Write(binary.BigEndian.AppendUint32(nil, uint32(flags&(flagFixed|flagNoZeroes)))); err != nil {
		return e, err
	}
	if err := option(rw, optStructured, nil, nil); err != nil {
		return e, err
	}
	if err := e.setContexts(rw, name, contexts); err != nil {
		return e, err
	}
	err := option(rw, optGo, goData(name), func(kind uint32, b []byte) error {
		if kind != repInfo || len(b) < 2 {
			return broken("reply %#x of %d bytes to the opening of the export", kind, len(b))
		}
		return e.info(binary.BigEndian.Uint16(b), b[2:])
	})
	if err == nil && e.size < 0 {
		err = broken("an export of %d bytes", uint64(e.size))
	}
	return e, err
}

func goData(name string) []byte {
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(name))), name...)
	b = binary.BigEndian.AppendUint16(b, 1)
	return binary.BigEndian.AppendUint16(b, infoBlockSize)
}

func (e *export) info(kind uint16, b []byte) error {
	switch {
	case kind == infoExport && len(b) == 10:
		e.size, e.flags = int64(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint16(b[8:])
	case kind == infoBlockSize && len(b) == 12:
		e.maxRequest = binary.BigEndian.Uint32(b[8:])
	case kind == infoExport || kind == infoBlockSize:
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
	err := option(rw, optSetMeta, b, func(kind uint32, b []byte) error {
		if kind != repMeta || len(b) < 4 {
			return broken("reply %#x of %d bytes to the contexts", kind, len(b))
		}
		e.contexts[binary.BigEndian.Uint32(b)] = string(b[4:])
		return nil
	})
	if err != nil {
		return err
	}
	for _, want := range contexts {
		offered := false
		for _, has := range e.contexts {
			offered = offered || has == want
		}
		if !offered {
			return fmt.Errorf("%w: %s", ErrNoContext, want)
		}
	}
	return nil
}

// option sends an option and calls each for the replies before the last.
func option(rw io.ReadWriter, number uint32, data []byte, each func(kind uint32, b []byte) error) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
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
		if binary.BigEndian.Uint64(head[:]) != magicReply || binary.BigEndian.Uint32(head[8:]) != number || size > maxOptionReply {
			return broken("reply %x to option %d", head[:], number)
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(rw, body); err != nil {
			return err
		}
		switch {
		case kind&repErrorBit != 0:
			return &RefusedError{Option: number, Reply: kind, Message: string(body[:min(len(body), maxError)])}
		case kind == repAck:
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
