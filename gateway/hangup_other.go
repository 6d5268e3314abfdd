//go:build !linux

package gateway

import "syscall"

// The gateway runs on Linux; elsewhere clients that go are noticed later.
type hangups struct{}

type watched struct{}

func (watched) active() bool { return false }

func (*hangups) start() error { return nil }
func (*hangups) run()         {}
func (*hangups) stop()        {}

func (*hangups) watch(syscall.RawConn, chan<- struct{}) watched { return watched{} }
func (*hangups) unwatch(watched, <-chan struct{})               {}
