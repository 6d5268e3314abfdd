package router

import (
	"fmt"
	"time"
)

// Usage is what an instance uses of its node.
type Usage struct {
	At          time.Time     // of the measurement
	CPU         float64       // cores, on average since the measurement before; 0 for the first one
	CPUTime     time.Duration // since the container's start
	CPULimit    float64       // cores; 0: none
	Memory      Bytes
	MemoryPeak  Bytes // the most that was measured so far
	MemoryLimit Bytes // 0: none
}

// Since fills in what takes two measurements of one container: the newer u and
// the one before it.
func (u Usage) Since(before Usage) Usage {
	u.MemoryPeak = u.Memory
	if u.CPUTime < before.CPUTime { // another start of it
		return u
	}
	u.MemoryPeak = max(u.Memory, before.MemoryPeak)
	if d := u.At.Sub(before.At); d > 0 && !before.At.IsZero() {
		u.CPU = (u.CPUTime - before.CPUTime).Seconds() / d.Seconds()
	}
	return u
}

// From these shares of its limits on, an instance is said to be short.
const (
	cpuShort    = 0.95
	memoryShort = 0.9
)

// Throttled reports whether the instance is held back by its CPU limit.
func (u Usage) Throttled() bool { return u.CPULimit > 0 && u.CPU >= cpuShort*u.CPULimit }

// Short reports whether the instance is about to be killed for memory.
func (u Usage) Short() bool {
	return u.MemoryLimit > 0 && float64(u.Memory) >= memoryShort*float64(u.MemoryLimit)
}

// Advice is what to do about an instance that is short of CPU or memory, in a
// sentence; "" where it is not.
func (u Usage) Advice() string {
	switch {
	case u.Short():
		return fmt.Sprintf("raise resources.memory above %s: it uses %s", u.MemoryLimit, rounded(u.Memory))
	case u.Throttled():
		return fmt.Sprintf("raise resources.cpu above %g: it uses %.2f, all that it may; or lower target_concurrency", u.CPULimit, u.CPU)
	}
	return ""
}

// AdviceOnKill is what to do about an instance that was killed for memory, of
// which u was the last measurement, if there was one.
func (u Usage) AdviceOnKill(limit Bytes) string {
	if limit <= 0 {
		return "its node ran out of memory: set resources.memory, so that the node's is shared out"
	}
	text := fmt.Sprintf("raise resources.memory above %s", limit)
	if u.MemoryPeak > 0 {
		text += fmt.Sprintf(": it used %s when last looked at, and then more than it may", rounded(u.MemoryPeak))
	}
	return text
}

// rounded is a size to the megabyte, as people compare them.
func rounded(b Bytes) Bytes {
	if b < 1<<20 {
		return b
	}
	return (b + 1<<19) >> 20 << 20
}

// AdviceOnLoop is what to do about an app that died so often in a row.
func (c Crash) AdviceOnLoop(app string) string {
	if c.Count < CrashLoop {
		return ""
	}
	return fmt.Sprintf("it died %d times in a row: see `fluxgate logs %s`; `fluxgate rollback %s` goes back to the release before", c.Count, app, app)
}

// CrashLoop is from how many deaths in a row on an app is said to loop.
const CrashLoop = 3

// NodeUsage is what the instances on one node use.
type NodeUsage struct {
	By        string           // the gateway that looked
	Instances map[string]Usage // by instance
}
