package router

import "time"

// Unrecorded stands in Traffic for a second in which no gateway counted.
const Unrecorded = -1

// Traffic is what was recorded of an app's requests, second by second, and what
// was measured of the app: all that a rehearsal needs.
type Traffic struct {
	From     time.Time // of the first second, a whole one
	Requests []int64   // that came in each second, at all gateways; or Unrecorded

	// Mean times that were measured; 0: not yet.
	Service time.Duration // that a request is served
	Thaw    time.Duration // from frozen to ready
	Start   time.Duration // from stopped to ready
	Create  time.Duration // from nothing to ready
}
