package gateway

import (
	"time"

	"github.com/valyala/fasthttp"

	"github.com/fluxgate/fluxgate/router"
)

// A lease is asked for again when it grows by more than busyStep, or, where the
// policy cuts it short, by more than that share of the longest one: an app may
// say with every answer that it is busy.
const (
	busyStep  = time.Second
	busyShare = 20
)

var headerBusy = []byte(router.BusyHeader)

// takeBusy takes the field by which an instance says that it is busy off its
// answer, and passes news on.
func (x *exchange) takeBusy(h *fasthttp.ResponseHeader) {
	v := h.PeekBytes(headerBusy)
	if len(v) == 0 {
		return
	}
	now := time.Now()
	until, ok := router.ParseBusy(string(v), now)
	h.DelBytes(headerBusy)
	if ok && x.edge.opts.Busy != nil && x.up.instance != "" && x.up.lease(until, now, x.target.policy.BusyMax.D()) {
		x.edge.opts.Busy(x.target.app, x.up.instance, until)
	}
}

// lease notes that the instance asks not to be stopped before until, and
// reports whether that is news.
func (u *upstream) lease(until, now time.Time, longest time.Duration) bool {
	step := busyStep
	if cut := now.Add(longest); until.After(cut) {
		until, step = cut, max(step, longest/busyShare)
	}
	for {
		has := u.busy.Load()
		wants := until.UnixNano()
		switch {
		case !until.After(now):
			if has <= now.UnixNano() {
				return false // it has none
			}
			wants = 0
		case wants-has <= int64(step):
			return false
		}
		if u.busy.CompareAndSwap(has, wants) {
			return true
		}
	}
}

// leased takes over what the record says.
func (u *upstream) leased(until time.Time) {
	if until.IsZero() {
		u.busy.Store(0)
		return
	}
	u.busy.Store(until.UnixNano())
}
