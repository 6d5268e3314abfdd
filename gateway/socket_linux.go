package gateway

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// hasHungUp reports whether the peer has closed its end. It looks at the
// socket without reading from it, so it works under TLS and with input waiting.
// A client that only ends its sending counts as gone: in HTTP it has no reason
// to, and no proxy waits for one that does.
func hasHungUp(raw syscall.RawConn) bool { return poll(raw, unix.POLLRDHUP) }

// hasInput reports whether there is something to read, be it the end; or, for a
// listener, to accept.
func hasInput(raw syscall.RawConn) bool { return poll(raw, unix.POLLIN|unix.POLLRDHUP) }

func poll(raw syscall.RawConn, events int16) bool {
	if raw == nil {
		return false
	}
	fds := []unix.PollFd{{Events: events}}
	n := 0
	err := raw.Control(func(fd uintptr) {
		fds[0].Fd = int32(fd)
		n, _ = unix.Poll(fds, 0)
	})
	return err == nil && n > 0
}
