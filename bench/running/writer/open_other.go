//go:build !linux

package main

import (
	"errors"
	"os"
)

func open(string) (*os.File, error) { return nil, errors.New("for Linux only") }

func aligned(int) ([]byte, error) { return nil, errors.New("for Linux only") }
