package router

import (
	"strconv"
	"time"
)

// BusyHeader is the field of an answer by which an app asks not to be stopped
// for a while. It does not reach the client.
const BusyHeader = "Fluxgate-Busy"

// unixFrom is the number from which on a busy lease's digits are a time, not
// seconds: 2001, or thirty years.
const unixFrom = 1_000_000_000

// ParseBusy reads until when an app asks not to be stopped: a duration ("90s",
// or seconds without a unit), a time in RFC 3339, or one in Unix seconds. What
// is not after now ends the lease, as "0" does. It reports false for anything
// else.
func ParseBusy(text string, now time.Time) (time.Time, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		switch {
		case n < 0 || n > 1<<40:
			return time.Time{}, false
		case n >= unixFrom:
			return time.Unix(n, 0), true
		}
		return now.Add(time.Duration(n) * time.Second), true
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, true
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return time.Time{}, false
	}
	return now.Add(d), true
}

// busySlack is by how much more than asked a lease is granted: a tenth, within
// these bounds, so that an app that renews it all the time causes few writes.
const (
	busySlackLeast = time.Second
	busySlackMost  = 30 * time.Second
)

// Lease is the lease that an app gets who asks for one until a time: a little
// longer, but no longer than longest from now. A time that is past gets none,
// which is the zero time.
func Lease(until, now time.Time, longest time.Duration) time.Time {
	left := until.Sub(now)
	if left <= 0 || longest <= 0 {
		return time.Time{}
	}
	left += min(max(left/10, busySlackLeast), busySlackMost)
	return now.Add(min(left, longest))
}

// Busy reports whether the instance is not to be stopped, for its app has asked
// for that.
func (in *Instance) Busy(now time.Time) bool { return now.Before(in.BusyUntil) }
