package decide

import "time"

// season learns what time of day needs how many instances: the peak of every
// five minutes of today and of the two days before.
type season struct {
	Day  int64          `json:"day,omitempty"`  // since 1970: what Days[0] is of
	Days [3]*dayOfPeaks `json:"days,omitempty"` // today, yesterday, the day before; nil where nothing was needed
}

const (
	seasonBin  = 300 // seconds
	seasonBins = day / seasonBin
	seasonHold = 30 // seconds into a bin for which what was made ready for it is held
)

type dayOfPeaks [seasonBins]uint16

func (s *season) see(n int, second int64) {
	s.turn(second / day)
	if n == 0 {
		return
	}
	if s.Days[0] == nil {
		s.Days[0] = &dayOfPeaks{}
	}
	bin := second % day / seasonBin
	s.Days[0][bin] = max(s.Days[0][bin], uint16(min(n, 65535)))
}

// turn begins a new day.
func (s *season) turn(to int64) {
	for s.Day < to {
		if to-s.Day > int64(len(s.Days)) {
			s.Day = to - int64(len(s.Days))
		}
		s.Day++
		s.Days[2], s.Days[1], s.Days[0] = s.Days[1], s.Days[0], nil
	}
}

// due is how many instances both days before needed in the five minutes that
// begin so soon that instances for them have to be started now, or began just
// now.
func (s *season) due(now time.Time, create time.Duration) int {
	ahead := now.Unix() + int64(create.Seconds()) + 2
	if ahead%seasonBin >= seasonHold+int64(create.Seconds())+2 {
		return 0
	}
	// Around midnight, ahead may be in a day that has not begun yet.
	i := int(min(1, s.Day+1-ahead/day))
	if i < 0 || s.Days[i] == nil || s.Days[i+1] == nil {
		return 0
	}
	bin := ahead % day / seasonBin
	return int(min(s.Days[i][bin], s.Days[i+1][bin]))
}

// next is the earliest moment from now on, within a day, at which something has
// to be started for what the days before needed.
func (s *season) next(now int64, create time.Duration) (at int64, ok bool) {
	lead := int64(create.Seconds()) + 2
	first := now
	if late := (now + lead) % seasonBin; late > 0 {
		first += seasonBin - late
	}
	for at := first; at < first+day; at += seasonBin {
		if s.due(time.Unix(at, 0), create) > 0 {
			return at, true
		}
	}
	return 0, false
}
