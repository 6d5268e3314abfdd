package rehearse

import (
	"maps"
	"slices"
	"strconv"
)

// Row is one change of what was ordered.
type Row struct {
	MS              int64
	Desired, Frozen int
}

// Starts counts the instances that were started by the rung that they started
// from, those included that were cancelled later.
type Starts struct {
	Absent  int `json:"absent"`
	Stopped int `json:"stopped"`
	Frozen  int `json:"frozen"`
}

// Result is what a run came to. Shares are of all requests; a wait is what comes
// before the service, in steps of 100 ms in the queue and of 1 ms for a start.
type Result struct {
	App             string  `json:"app"`
	Policy          string  `json:"policy" doc:"What decided: fluxgate, fixed:N or replay"`
	Duration        int     `json:"duration_s" doc:"Seconds of the trace"`
	Requests        int64   `json:"requests" doc:"All that came"`
	Unserved        int64   `json:"unserved" doc:"Still queued at the end; they count as having waited until then"`
	InstanceSeconds float64 `json:"instance_seconds" doc:"Ready, starting and draining"`
	FrozenSeconds   float64 `json:"frozen_instance_seconds" doc:"Frozen"`
	IdealSeconds    float64 `json:"ideal_instance_seconds" doc:"Of one who knows the traffic beforehand and keeps instances 70 % busy"`
	// Overprovision is InstanceSeconds / IdealSeconds; nil where nothing came.
	Overprovision *float64 `json:"overprovision" doc:"instance_seconds / ideal_instance_seconds; null where nothing came"`
	Starts        int      `json:"starts" doc:"Instances started, also those cancelled later"`
	StartsFrom    Starts   `json:"starts_from" doc:"The same by the rung that they started from"`
	Peak          int      `json:"peak_instances" doc:"Most instances at once, ready or starting"`
	Over50        float64  `json:"share_wait_gt_50ms" doc:"Share of all requests that waited longer, their service not counted"`
	Over250       float64  `json:"share_wait_gt_250ms"`
	Over1000      float64  `json:"share_wait_gt_1s"`
	Mean          float64  `json:"wait_mean_ms"`
	P50           int64    `json:"wait_p50_ms" doc:"Percentiles of the wait"`
	P95           int64    `json:"wait_p95_ms"`
	P99           int64    `json:"wait_p99_ms"`
	P999          int64    `json:"wait_p999_ms"`
	Max           int64    `json:"wait_max_ms"`
	MaxQueue      int64    `json:"max_queue" doc:"Most requests queued at once"`
	// Flaps are changes of the desired count against the direction of the one
	// before, in an hour.
	Flaps    float64 `json:"flaps_per_hour" doc:"Changes of the desired count against the direction of the one before"`
	Timeline []Row   `json:"-"`
}

// frozenWeight is what a frozen instance costs: it holds memory and uses no CPU.
const frozenWeight = 0.1

// Cost is what the run cost, in instance-seconds.
func (r Result) Cost() float64 { return r.InstanceSeconds + frozenWeight*r.FrozenSeconds }

func (p *plant) result(trace Trace) Result {
	end := int64(len(trace)) * 1000
	for _, c := range p.queue { // they have waited at least this long
		p.waited(c.at, end-c.at, c.n)
	}
	idealMS := int64(0)
	for _, rate := range trace {
		capacity := p.app.Concurrency * 1000 * idealPermille
		idealMS += 1000 * ((rate*p.app.ServiceMS + capacity - 1) / capacity)
	}
	r := Result{
		App: p.app.Name, Duration: len(trace), Requests: p.total, Unserved: p.queued,
		InstanceSeconds: float64(p.runningMS) / 1000, FrozenSeconds: float64(p.frozenMS) / 1000, IdealSeconds: float64(idealMS) / 1000,
		Starts: p.starts.Absent + p.starts.Stopped + p.starts.Frozen, StartsFrom: p.starts, Peak: p.peak, MaxQueue: p.maxQueue,
		Flaps: sixDecimals(float64(reversals(p.timeline)) * 3600 / float64(max(1, len(trace)))), Timeline: p.timeline,
	}
	if idealMS > 0 {
		over := sixDecimals(float64(p.runningMS) / float64(idealMS))
		r.Overprovision = &over
	}
	if p.total == 0 {
		return r
	}
	waits := slices.Sorted(maps.Keys(p.waits))
	share := func(limit int64) float64 {
		n := int64(0)
		for _, w := range waits {
			if w > limit {
				n += p.waits[w]
			}
		}
		return sixDecimals(float64(n) / float64(p.total))
	}
	percentile := func(permille int64) int64 {
		need, seen := (p.total*permille+999)/1000, int64(0)
		for _, w := range waits {
			if seen += p.waits[w]; seen >= need {
				return w
			}
		}
		return waits[len(waits)-1]
	}
	sum := int64(0)
	for w, n := range p.waits {
		sum += w * n
	}
	r.Over50, r.Over250, r.Over1000 = share(50), share(250), share(1000)
	r.Mean = sixDecimals(float64(sum) / float64(p.total))
	r.P50, r.P95, r.P99, r.P999, r.Max = percentile(500), percentile(950), percentile(990), percentile(999), waits[len(waits)-1]
	return r
}

// reversals counts changes of the desired count whose sign differs from the
// change before.
func reversals(rows []Row) int {
	count, last := 0, 0
	for i := 1; i < len(rows); i++ {
		sign := rows[i].Desired - rows[i-1].Desired
		if sign == 0 {
			continue
		}
		if last != 0 && (sign > 0) != (last > 0) {
			count++
		}
		last = sign
	}
	return count
}

// sixDecimals rounds the exact value, as the reference does.
func sixDecimals(x float64) float64 {
	y, _ := strconv.ParseFloat(strconv.FormatFloat(x, 'f', 6, 64), 64) // it was written just now
	return y
}
