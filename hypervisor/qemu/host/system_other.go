//go:build !linux

package host

import (
	"errors"
	"net"
	"os"
	"os/exec"
)

var errLinux = errors.New("this version backs up running QEMU guests on Linux only")

func Unnamed(string, int64) (*os.File, error) { return nil, errLinux }
func Listen(string) (*os.File, error)         { return nil, errLinux }
func Dial(string) (net.Conn, error)           { return nil, errLinux }
func Present(string) func()                   { return func() {} }
func Alive(string) bool                       { return false }
func Process(net.Conn) (pid int, name string) { return 0, "" }
func CommandLine(int) []string                { return nil }
func Detach(*exec.Cmd)                        {}
func Kill(int)                                {}
func Refused(error) bool                      { return false }
