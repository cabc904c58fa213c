package control

import (
	"os/user"
	"testing"
)

// A directory of users that does not answer keeps nobody waiting.
func TestNameThatNobodySays(t *testing.T) {
	away := make(chan struct{})
	defer close(away)
	if got := named(7, func(string) (*user.User, error) { <-away; return nil, user.UnknownUserIdError(7) }); got != "" {
		t.Errorf("got %q", got)
	}
	if got := named(7, func(id string) (*user.User, error) { return &user.User{Username: "user " + id}, nil }); got != "user 7" {
		t.Errorf("got %q", got)
	}
}
