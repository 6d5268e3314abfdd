package gateway

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// hangups tells requests that wait when their clients go. The HTTP engine reads
// no connection while its request is being handled, and Go's own poller tells
// nobody else, so an epoll of our own watches, for nothing but the end: input
// that waits, such as a body or the next request, is no news.
type hangups struct {
	epoll *os.File // itself waited for by Go's poller; nil: nobody is told

	mu   sync.Mutex // taken only by requests that wait for longer than a moment
	last uint64
	told map[uint64]chan<- struct{}
}

// watched is one watch. The zero value is none.
type watched struct {
	id  uint64
	raw syscall.RawConn
}

func (w watched) active() bool { return w.id != 0 }

// start makes the epoll. Without one, clients that go are noticed later.
func (h *hangups) start() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // for Go's poller to take it
		return err
	}
	h.epoll = os.NewFile(uintptr(fd), "hangups")
	h.told = map[uint64]chan<- struct{}{}
	return nil
}

// run passes news on until stop.
func (h *hangups) run() {
	raw, err := h.epoll.SyscallConn()
	if err != nil {
		return
	}
	events := make([]unix.EpollEvent, 128)
	n := 0
	for {
		err := raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events, 0) // fails for a signal at most: as if there was nothing
			return n > 0
		})
		if err != nil {
			return // stop
		}
		h.mu.Lock()
		for _, ev := range events[:n] {
			select {
			case h.told[uint64(uint32(ev.Fd))|uint64(uint32(ev.Pad))<<32] <- struct{}{}: // nil for one that has just ended
			default:
			}
		}
		h.mu.Unlock()
	}
}

func (h *hangups) stop() {
	if h.epoll != nil {
		_ = h.epoll.Close()
	}
}

// watch lets gone, which must be buffered, know once when the peer of raw has
// closed its end. End it with unwatch.
func (h *hangups) watch(raw syscall.RawConn, gone chan<- struct{}) watched {
	if raw == nil || h.epoll == nil {
		return watched{}
	}
	h.mu.Lock()
	h.last++
	w := watched{id: h.last, raw: raw}
	h.told[w.id] = gone
	h.mu.Unlock()
	if !h.control(raw, unix.EPOLL_CTL_ADD, w.id) {
		h.forget(w.id)
		return watched{}
	}
	return w
}

// unwatch ends a watch, and takes back what gone may have been told.
func (h *hangups) unwatch(w watched, gone <-chan struct{}) {
	if !w.active() {
		return
	}
	// A connection that was closed meanwhile is not watched any more.
	h.control(w.raw, unix.EPOLL_CTL_DEL, w.id)
	h.forget(w.id)
	select {
	case <-gone:
	default:
	}
}

func (h *hangups) forget(id uint64) {
	h.mu.Lock()
	delete(h.told, id)
	h.mu.Unlock()
}

func (h *hangups) control(raw syscall.RawConn, op int, id uint64) bool {
	done := false
	epoll, err := h.epoll.SyscallConn()
	if err != nil {
		return false
	}
	ev := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
	_ = epoll.Control(func(at uintptr) {
		_ = raw.Control(func(fd uintptr) { done = unix.EpollCtl(int(at), op, int(fd), &ev) == nil })
	})
	return done
}
