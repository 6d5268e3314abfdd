package gateway

import (
	"net"
	"sync"
)

// client is whom the queue shares places among: an IPv4 address, or the first
// 64 bits of an IPv6 one, for a single host has all of those (RFC 4291 section
// 2.5.4). A cookie or a token is no client: whoever floods makes new ones. All
// that come through one address count as one, as behind a NAT or a proxy.
type client [16]byte

// clientOf is the client behind an address; all that are none are one.
func clientOf(addr net.Addr) (c client) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return c
	}
	if ip := tcp.IP.To4(); ip != nil {
		copy(c[:], ip.To16())
		return c
	}
	if len(tcp.IP) == net.IPv6len {
		copy(c[:8], tcp.IP)
	}
	return c
}

// queue is those who wait for a place at one app. Clients take turns, and
// within a client who came first is first. With places of equal worth that is
// deficit round robin with a quantum of one (Shreedhar and Varghese, "Efficient
// Fair Queuing using Deficit Round Robin", SIGCOMM 1995): however many requests
// a client has waiting, another's next one waits for one of them at most. Every
// operation takes the same time whatever the length, and only clients that wait
// take memory. The longest flow is known, so that it is the one to lose a
// request where the queue is full (RFC 8290 section 4.1.2).
type queue struct {
	size    int
	flows   map[client]*flow
	turn    *flow   // whose turn it is; the others follow in a ring
	bySize  []*flow // flows of n requests, at n
	longest int     // size of the longest flow
	most    int     // flows that there were at once
}

// flow is what waits of one client.
type flow struct {
	client      client
	first, last *waiter
	size        int
	prev, next  *flow // in the ring
	less, more  *flow // among those of the same size
}

var flows = sync.Pool{New: func() any { return new(flow) }}

// keptFlows is how large an empty queue's memory may stay.
const keptFlows = 256

// push puts w at the end of its client's flow. A client that has none yet gets
// the turn after all others.
func (q *queue) push(w *waiter, c client) {
	f := q.flows[c]
	if f == nil {
		f = flows.Get().(*flow)
		f.client = c
		if q.flows == nil {
			q.flows = map[client]*flow{}
		}
		q.flows[c] = f
		q.most = max(q.most, len(q.flows))
		q.enter(f)
	}
	w.flow, w.prev, w.next = f, f.last, nil
	if f.last != nil {
		f.last.next = w
	} else {
		f.first = w
	}
	f.last = w
	q.size++
	q.resize(f, f.size+1)
}

// remove takes w out, whatever its place.
func (q *queue) remove(w *waiter) {
	f := w.flow
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		f.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		f.last = w.prev
	}
	w.flow, w.prev, w.next = nil, nil, nil
	q.size--
	q.resize(f, f.size-1)
	if f.size > 0 {
		return
	}
	q.leave(f)
	delete(q.flows, f.client)
	*f = flow{}
	flows.Put(f)
	if q.size == 0 && max(q.most, len(q.bySize)) > keptFlows {
		*q = queue{}
	}
}

// pop takes out the one who is next, or returns nil.
func (q *queue) pop() *waiter {
	f := q.turn
	if f == nil {
		return nil
	}
	w := f.first
	q.turn = f.next // where f is the last of the ring, remove sees to it
	q.remove(w)
	return w
}

// of is how many requests of a client wait.
func (q *queue) of(c client) int {
	if f := q.flows[c]; f != nil {
		return f.size
	}
	return 0
}

// newestOfLongest is the request that waits for its client's turn the longest
// from now, or nil.
func (q *queue) newestOfLongest() *waiter {
	if q.size == 0 {
		return nil
	}
	return q.bySize[q.longest].last
}

// each calls fn for all that wait; fn may remove the one that it is called for.
func (q *queue) each(fn func(*waiter)) {
	for _, f := range q.flows {
		for w := f.first; w != nil; {
			next := w.next
			fn(w)
			w = next
		}
	}
}

// enter puts f at the end of the ring: before the one whose turn it is.
func (q *queue) enter(f *flow) {
	if q.turn == nil {
		q.turn, f.prev, f.next = f, f, f
		return
	}
	f.prev, f.next = q.turn.prev, q.turn
	f.prev.next, f.next.prev = f, f
}

func (q *queue) leave(f *flow) {
	if f.next == f {
		q.turn = nil
		return
	}
	f.prev.next, f.next.prev = f.next, f.prev
	if q.turn == f {
		q.turn = f.next
	}
}

// resize moves f among those of another size, one more or one less than its own.
func (q *queue) resize(f *flow, size int) {
	if f.size > 0 {
		if f.less != nil {
			f.less.more = f.more
		} else {
			q.bySize[f.size] = f.more
		}
		if f.more != nil {
			f.more.less = f.less
		}
	}
	if f.size == q.longest && q.longest > size && q.bySize[f.size] == nil {
		q.longest = size // f itself is of that size now
	}
	f.size, f.less, f.more = size, nil, nil
	if size == 0 {
		return
	}
	for len(q.bySize) <= size {
		q.bySize = append(q.bySize, nil)
	}
	if f.more = q.bySize[size]; f.more != nil {
		f.more.less = f
	}
	q.bySize[size] = f
	q.longest = max(q.longest, size)
}
