package decide

import "time"

// rhythm learns traffic that comes at regular times, as from a cron job: it
// remembers when bursts began and how many instances they took.
type rhythm struct {
	Bursts []burst `json:"bursts,omitempty"` // the oldest first
	Last   int64   `json:"last,omitempty"`   // second in which anything was needed last
}

type burst struct {
	Start int64 `json:"s"`
	Peak  int   `json:"p"` // in its first seconds
}

const (
	rhythmBursts = 48
	rhythmQuiet  = 20 // seconds without need, after which a need begins a burst
	rhythmFirst  = 15 // seconds that count as its first
	rhythmHold   = 10 // seconds that what was made ready for a burst is held after it came
	leastPeriod  = 30
)

func (r *rhythm) see(n int, second int64) {
	if n == 0 {
		return
	}
	if second-r.Last > rhythmQuiet {
		if len(r.Bursts) == rhythmBursts {
			r.Bursts = append(r.Bursts[:0], r.Bursts[1:]...)
		}
		r.Bursts = append(r.Bursts, burst{Start: second})
	}
	r.Last = second
	if b := &r.Bursts[len(r.Bursts)-1]; second-b.Start < rhythmFirst {
		b.Peak = max(b.Peak, n)
	}
}

// due is what is known of the next burst.
type due struct {
	confidence float64 // that bursts come when they should; 0 where no rhythm was found
	period     int64
	slack      int64 // seconds that it may come early or late
	near       bool  // so near that instances for it have to be started
	at         int64
	count      int // instances that it will need
}

// price is what it costs to start one instance for a burst and to hold it until
// it comes, in instance-seconds.
func (d due) price(f Facts) float64 { return f.Create.Seconds() + float64(2*d.slack+2) }

// worth reports whether that is less than what the wait would cost.
func (d due) worth(wakeCost float64, f Facts) bool {
	return d.price(f) < d.confidence*wakeCost*f.Create.Seconds()
}

// due finds the shortest period that explains when bursts came.
func (r *rhythm) due(now int64, create time.Duration) due {
	k := len(r.Bursts)
	if k < 4 {
		return due{}
	}
	last := r.Bursts[k-1].Start
	for back := 1; back <= k-3; back++ {
		period := last - r.Bursts[k-1-back].Start
		slack := max(2, min(period/200, 30))
		if period < leastPeriod {
			continue
		}
		hits, tries := r.explained(period, slack)
		if hits < 3 || hits*5 < tries*4 {
			continue
		}
		d := due{confidence: float64(hits+1) / float64(tries+2), period: period, slack: slack}
		ahead := int64(create.Seconds()+1) + slack
		for _, b := range r.Bursts {
			at := b.Start + period
			came := at-last <= slack && last-at <= slack
			if came && now < last+rhythmHold || at > last+slack && now >= at-ahead && now <= at+slack+1 {
				d.near, d.at, d.count = true, at, max(1, b.Peak)
				break
			}
		}
		return d
	}
	return due{}
}

// explained counts the later bursts, and those of them that came a period after
// another one.
func (r *rhythm) explained(period, slack int64) (hits, tries int) {
	const looked = 12
	for i := len(r.Bursts) - 1; i >= max(0, len(r.Bursts)-looked); i-- {
		want := r.Bursts[i].Start - period
		if r.Bursts[0].Start > want+slack {
			break // too early to tell
		}
		tries++
		for j := i - 1; j >= 0 && r.Bursts[j].Start >= want-slack; j-- {
			if r.Bursts[j].Start <= want+slack {
				hits++
				break
			}
		}
	}
	return hits, tries
}

// next is the earliest moment from now on at which something has to be started
// for a burst; ok is false where no rhythm is known.
func (r *rhythm) next(now int64, create time.Duration) (at int64, ok bool) {
	d := r.due(now, create)
	if d.confidence == 0 {
		return 0, false
	}
	last := r.Bursts[len(r.Bursts)-1].Start
	for _, b := range r.Bursts {
		start := b.Start + d.period
		if begin := start - int64(create.Seconds()+1) - d.slack; start > last+d.slack && start+d.slack >= now && (!ok || begin < at) {
			at, ok = max(begin, now), true
		}
	}
	return at, ok
}
