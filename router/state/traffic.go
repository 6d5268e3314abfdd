package state

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// What is kept of an app's traffic: a ring of a day's minutes, second by
// second, and a ring of thirty days' hours, minute by minute. Both are fields
// of one hash, so that an app's recorded traffic has a fixed size and goes as a
// whole. Nothing is written for an app that is silent.
const (
	keptMinutes = 24 * 60
	keptHours   = 30 * 24
	trafficTTL  = 31 * 24 * time.Hour
)

// A minute is recorded once its seconds have settled: gateways keep theirs for
// a minute while Redis does not answer. It must be recorded before its first
// second is forgotten.
const (
	settled   = 65 * time.Second
	forgotten = rateTTL - 5*time.Second
)

// trafficChunk is how many apps go into one pipeline.
const trafficChunk = 500

// RecordTraffic records every minute that is due at now, of the apps that are
// known, and every hour that is over. It is for the one gateway that decides,
// to be called every few seconds; it does something about once a minute, in
// proportion to the apps that were active in it. It is safe to repeat and
// against two at once.
func (s *Store) RecordTraffic(ctx context.Context, now time.Time, known func(app string) bool) error {
	rctx, cancel := context.WithTimeout(ctx, callTimeout)
	marks, err := s.client.HMGet(rctx, s.keys.recorded(), "minute", "hour").Result()
	cancel()
	if err != nil {
		return s.fail(ctx, "reading up to when traffic is recorded", err)
	}
	newest := now.Add(-settled).Unix()/60 - 1
	oldest := (now.Add(-forgotten).Unix() + 59) / 60
	last, ok := mark(marks, 0)
	for minute := max(oldest, last+1); minute <= newest; minute++ {
		apps := map[string][]router.Sample{}
		err := s.eachRate(ctx, minute*60, minute*60+blockRows-1, func(second int64, app string, n router.Sample) {
			seconds, ok := apps[app]
			if !ok {
				if known(app) {
					seconds = make([]router.Sample, blockRows)
				}
				apps[app] = seconds
			}
			if seconds != nil {
				seconds[second-minute*60] = seconds[second-minute*60].Plus(n)
			}
		})
		if err != nil {
			return err
		}
		maps.DeleteFunc(apps, func(_ string, seconds []router.Sample) bool { return seconds == nil })
		if err := s.RecordMinute(ctx, time.Unix(minute*60, 0), apps); err != nil {
			return err
		}
		if err := s.setMark(ctx, "minute", minute, minuteField(minute), minute); err != nil {
			return err
		}
		last, ok = minute, true
	}
	if !ok {
		return nil
	}
	hourDone, _ := mark(marks, 1)
	over := (last+1)/60 - 1
	for hour := max(hourDone+1, over-keptMinutes/60+2); hour <= over; hour++ {
		if err := s.recordHour(ctx, hour, known); err != nil {
			return err
		}
		if err := s.setMark(ctx, "hour", hour); err != nil {
			return err
		}
	}
	return nil
}

func mark(marks []any, i int) (int64, bool) {
	text, _ := marks[i].(string)
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// setMark sets fields of the record of what is recorded.
func (s *Store) setMark(ctx context.Context, pairs ...any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.fail(ctx, "storing up to when traffic is recorded", s.client.HSet(ctx, s.keys.recorded(), pairs...).Err())
}

// Recorded tells of the minutes from from's to to's, both included, in which
// somebody recorded, whatever came: in others an app need not have been silent.
// Minutes that are not settled yet count as recorded.
func (s *Store) Recorded(ctx context.Context, from, to time.Time) ([]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	first, last := from.Unix()/60, to.Unix()/60
	if last < first || last-first > keptMinutes {
		return nil, router.Errorf(router.CodeInvalid, "traffic is kept by the second for a day: ask for that much at most, from the earlier to the later")
	}
	fields := make([]string, 0, last-first+1)
	for minute := first; minute <= last; minute++ {
		fields = append(fields, minuteField(minute))
	}
	marks, err := s.client.HMGet(ctx, s.keys.recorded(), fields...).Result()
	if err != nil {
		return nil, s.fail(ctx, "reading when traffic was recorded", err)
	}
	recent := time.Now().Unix()/60 - maxSeconds/60 + 1
	recorded := make([]bool, len(marks))
	for i := range marks {
		minute, ok := mark(marks, i)
		recorded[i] = ok && minute == first+int64(i) || first+int64(i) >= recent
	}
	return recorded, nil
}

// RecordMinute stores the seconds of the minute that begins at minute, by app;
// it replaces what was recorded of that minute.
func (s *Store) RecordMinute(ctx context.Context, minute time.Time, apps map[string][]router.Sample) error {
	number := minute.Unix() / 60
	blocks := make(map[string][]byte, len(apps))
	for app, seconds := range apps {
		rows := make([]router.Minute, len(seconds))
		for i, n := range seconds {
			rows[i].Sample = n
		}
		blocks[app] = encodeBlock(blockSeconds, number, rows)
	}
	return s.storeBlocks(ctx, minuteField(number), blocks)
}

func minuteField(minute int64) string { return "m" + strconv.FormatInt(minute%keptMinutes, 10) }
func hourField(hour int64) string     { return "h" + strconv.FormatInt(hour%keptHours, 10) }

// storeBlocks sets one field of many apps.
func (s *Store) storeBlocks(ctx context.Context, field string, blocks map[string][]byte) error {
	for apps := range slices.Chunk(slices.Sorted(maps.Keys(blocks)), trafficChunk) {
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := s.client.Pipelined(cctx, func(p redis.Pipeliner) error {
			for _, app := range apps {
				p.HSet(cctx, s.keys.traffic(app), field, blocks[app])
				p.Expire(cctx, s.keys.traffic(app), trafficTTL)
			}
			return nil
		})
		cancel()
		if err != nil {
			return s.fail(ctx, "recording the traffic", err)
		}
	}
	return nil
}

// recordHour sums up an hour's minutes of every known app that has been active
// since its beginning.
func (s *Store) recordHour(ctx context.Context, hour int64, known func(app string) bool) error {
	rctx, cancel := context.WithTimeout(ctx, callTimeout)
	apps, err := s.client.ZRangeByScore(rctx, s.keys.active(), &redis.ZRangeBy{Min: strconv.FormatInt(hour*3600, 10), Max: "+inf"}).Result()
	cancel()
	if err != nil {
		return s.fail(ctx, "reading which apps were active", err)
	}
	apps = slices.DeleteFunc(apps, func(app string) bool { return !known(app) })
	for apps := range slices.Chunk(apps, trafficChunk) {
		blocks := map[string][]byte{}
		found, err := s.minutes(ctx, apps, hour*60, hour*60+blockRows-1)
		if err != nil {
			return err
		}
		for app, seconds := range found {
			rows := make([]router.Minute, blockRows)
			for minute, block := range seconds {
				rows[minute-hour*60] = sumUp(block)
			}
			blocks[app] = encodeBlock(blockMinutes, hour, rows)
		}
		if err := s.storeBlocks(ctx, hourField(hour), blocks); err != nil {
			return err
		}
	}
	return nil
}

// block is what decodeBlock finds.
type block [blockRows]router.Minute

func sumUp(b block) router.Minute {
	var seconds [blockRows]router.Sample
	for i, m := range b {
		seconds[i] = m.Sample
	}
	return router.SumUp(seconds[:])
}

// minutes are the recorded minutes from first to last, by app and minute; what
// was silent is absent.
func (s *Store) minutes(ctx context.Context, apps []string, first, last int64) (map[string]map[int64]block, error) {
	return s.blocks(ctx, apps, blockSeconds, first, last, keptMinutes, minuteField)
}

// blocks reads one of the rings.
func (s *Store) blocks(ctx context.Context, apps []string, kind blockKind, first, last, kept int64, name func(int64) string) (map[string]map[int64]block, error) {
	found := map[string]map[int64]block{}
	if first = max(first, last-kept+1); last < first || len(apps) == 0 {
		return found, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	fields := make([]string, 0, last-first+1)
	for n := first; n <= last; n++ {
		fields = append(fields, name(n))
	}
	replies := make([]*redis.SliceCmd, len(apps))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, app := range apps {
			replies[i] = p.HMGet(ctx, s.keys.traffic(app), fields...)
		}
		return nil
	})
	if err != nil {
		return nil, s.fail(ctx, "reading the recorded traffic", err)
	}
	for i, app := range apps {
		for k, v := range replies[i].Val() {
			text, ok := v.(string)
			if !ok {
				continue
			}
			is, number, rows, err := decodeBlock([]byte(text))
			if err != nil || is != kind {
				s.log.Warn("a block of recorded traffic cannot be read", "app", app, "field", fields[k])
				continue
			}
			if number != first+int64(k) {
				continue // of a turn before
			}
			if found[app] == nil {
				found[app] = map[int64]block{}
			}
			found[app][number] = rows
		}
	}
	return found, nil
}

// Traffic is what all gateways counted of an app: one Sample for every second
// from from's to to's, both included, the last seconds too; a day at most.
// Silent seconds, and those more than a day ago, are zero. Requests and answers
// are exact; service times are within 0.6 %.
func (s *Store) Traffic(ctx context.Context, app string, from, to time.Time) ([]router.Sample, error) {
	first, last := from.Unix(), to.Unix()
	if last < first || last-first >= keptMinutes*60 {
		return nil, router.Errorf(router.CodeInvalid, "traffic is kept by the second for a day: ask for that much at most, from the earlier to the later")
	}
	out := make([]router.Sample, last-first+1)
	found, err := s.minutes(ctx, []string{app}, first/60, last/60)
	if err != nil {
		return nil, err
	}
	for minute, rows := range found[app] {
		for i, m := range rows {
			if at := minute*60 + int64(i) - first; at >= 0 && at < int64(len(out)) {
				out[at] = m.Sample
			}
		}
	}
	// What is not recorded yet is still there as it was counted.
	recent := max(first, time.Now().Unix()-maxSeconds)
	live, err := s.ratesOf(ctx, app, recent, last)
	if err != nil {
		return nil, err
	}
	for second, n := range live {
		if _, recorded := found[app][second/60]; !recorded {
			out[second-first] = n
		}
	}
	return out, nil
}

// TrafficMinutes is what all gateways counted of an app: one Minute for every
// minute from from's to to's, both included; thirty days at most. Silent
// minutes, and those more than thirty days ago, are zero.
func (s *Store) TrafficMinutes(ctx context.Context, app string, from, to time.Time) ([]router.Minute, error) {
	first, last := from.Unix()/60, to.Unix()/60
	if last < first || last-first >= keptHours*60 {
		return nil, router.Errorf(router.CodeInvalid, "traffic is kept by the minute for thirty days: ask for that much at most, from the earlier to the later")
	}
	out := make([]router.Minute, last-first+1)
	hours, err := s.blocks(ctx, []string{app}, blockMinutes, first/60, last/60, keptHours, hourField)
	if err != nil {
		return nil, err
	}
	for hour, rows := range hours[app] {
		for i, m := range rows {
			if at := hour*60 + int64(i) - first; at >= 0 && at < int64(len(out)) {
				out[at] = m
			}
		}
	}
	// The hour that is not over is there by its seconds.
	seconds, err := s.Traffic(ctx, app, time.Unix(max(first*60, (last+1)*60-keptMinutes*60), 0), time.Unix(last*60+59, 0))
	if err != nil {
		return nil, err
	}
	for end := len(seconds); end >= blockRows; end -= blockRows {
		minute := last - int64((len(seconds)-end)/blockRows)
		if _, recorded := hours[app][minute/60]; !recorded {
			out[minute-first] = router.SumUp(seconds[end-blockRows : end])
		}
	}
	return out, nil
}

// ratesOf is what Rates holds of one app.
func (s *Store) ratesOf(ctx context.Context, app string, first, last int64) (map[int64]router.Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sums := map[int64]router.Sample{}
	cursors := make(map[int64]uint64, max(0, last-first+1))
	for second := first; second <= last; second++ {
		cursors[second] = 0
	}
	for len(cursors) > 0 { // the first round nearly always reads all
		replies := make(map[int64]*redis.ScanCmd, len(cursors))
		_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for second, cursor := range cursors {
				replies[second] = p.HScan(ctx, s.keys.rates(second), cursor, "*|"+app, 1<<20)
			}
			return nil
		})
		if err != nil {
			return nil, s.fail(ctx, "reading an app's request rates", err)
		}
		for second, reply := range replies {
			pairs, cursor := reply.Val()
			for i := 0; i+1 < len(pairs); i += 2 {
				if n, ok := decodeSample(pairs[i+1]); ok && strings.HasSuffix(pairs[i], "|"+app) {
					sums[second] = sums[second].Plus(n)
				}
			}
			if cursors[second] = cursor; cursor == 0 {
				delete(cursors, second)
			}
		}
	}
	return sums, nil
}
