package store

import "fmt"

// The longest name and the longest element of a name, in bytes: what every kind
// of store we know can hold.
const (
	MaxName    = 512
	MaxElement = 200
)

// Reserved is the first element no object name may have: a store may keep its
// unfinished uploads there.
const Reserved = "tmp"

// CheckName returns nil if name is an object name, else an error wrapping
// ErrName. Names are paths of elements joined by single '/': elements hold only
// a-z, 0-9, '.', '_' and '-', and neither begin nor end with '.' (so there is no
// "..", no hidden file, and nothing Windows would trim). Upper case is out
// because some file systems fold it.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("name of %d bytes: %w", len(name), ErrName)
	}
	start := 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			if !allowed(name[i]) {
				return fmt.Errorf("%q: byte %q: %w", name, name[i], ErrName)
			}
			continue
		}
		element := name[start:i]
		if n := len(element); n == 0 || n > MaxElement || element[0] == '.' || element[n-1] == '.' {
			return fmt.Errorf("%q: element %q: %w", name, element, ErrName)
		}
		if start == 0 && element == Reserved {
			return fmt.Errorf("%q: %q is reserved: %w", name, Reserved, ErrName)
		}
		start = i + 1
	}
	return nil
}

func allowed(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}
