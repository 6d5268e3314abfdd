package router

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// InstanceState is where an instance is in its life.
type InstanceState string

// The states. Ready instances, and no others, take requests.
const (
	Starting InstanceState = "starting" // claimed: being created, started or thawed
	Ready    InstanceState = "ready"
	Draining InstanceState = "draining" // out of the Table; its last requests finish
	Frozen   InstanceState = "frozen"   // cgroup freezer, memory kept
	Stopped  InstanceState = "stopped"  // container kept
	Failed   InstanceState = "failed"   // its container died; what is left of it is to be removed
)

// transitions is every allowed edge. Absent is no record at all: it is reached
// by dropping the instance.
var transitions = map[InstanceState][]InstanceState{
	Starting: {Ready, Frozen, Stopped, Failed},
	Ready:    {Draining, Failed},
	Draining: {Ready, Frozen, Stopped, Failed},
	Frozen:   {Starting, Stopped, Ready, Failed},
	Stopped:  {Starting, Ready, Failed},
	Failed:   {},
}

// Instance is one container of one release on one node.
type Instance struct {
	ID        string // unique over all apps; also names the container
	App       string
	Release   int
	Node      string
	Container string // Podman's ID; empty until created
	State     InstanceState
	Addr      string    // host:port where it answers; read again after every start
	Claim     Claim     // who is changing it now
	Since     time.Time // when State was entered
	IdleSince time.Time // last request seen when it began to drain; the idle ladder counts from here
	BusyUntil time.Time // the app asked not to be stopped before; zero: it did not
	ExitCode  int       // for Failed
	Reason    string    // for Failed: what happened, in a sentence
}

// Claim is a short, expiring right to change an instance's container.
type Claim struct {
	Holder string // gateway ID
	Op     string // create, start, thaw, freeze, stop, remove
	Until  time.Time
}

// Held reports whether somebody else than holder has an unexpired claim.
func (c Claim) Held(holder string, now time.Time) bool {
	return c.Holder != "" && c.Holder != holder && now.Before(c.Until)
}

// NewInstanceID is "hello-3-9f86d081": app, release and chance.
func NewInstanceID(app string, release int) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return fmt.Sprintf("%s-%d-%s", app, release, hex.EncodeToString(b[:]))
}

// To moves the instance to another state and drops any claim. A move that the
// life of an instance does not allow is a CodeConflict error and changes nothing.
func (in *Instance) To(next InstanceState, now time.Time) error {
	if in.State == next {
		in.Claim = Claim{}
		return nil
	}
	if !slices.Contains(transitions[in.State], next) {
		return Errorf(CodeConflict, "instance %s is %s and cannot become %s", in.ID, in.State, next)
	}
	in.State, in.Since, in.Claim = next, now, Claim{}
	if next == Stopped {
		in.Addr = ""
	}
	if next != Ready && next != Draining {
		in.BusyUntil = time.Time{}
	}
	return nil
}

// DrainID names one draining of the instance: what is acknowledged for it does
// not count for a later one.
func (in Instance) DrainID() string {
	return fmt.Sprintf("%s@%d", in.ID, in.Since.UnixNano())
}

// Crash is the backoff of an app whose containers die.
type Crash struct {
	Count  int       // deaths in a row
	Last   time.Time // of the last one
	Until  time.Time // no new start before this
	Reason string    // of the last one
}

// CrashHealthy is how long an app must have lived without a death for the
// backoff to start over.
const CrashHealthy = 10 * time.Minute

var crashDelays = []time.Duration{0, time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute}

// After is the backoff after one more death at now.
func (c Crash) After(now time.Time, reason string) Crash {
	if !c.Last.IsZero() && now.Sub(c.Last) >= CrashHealthy {
		c.Count = 0
	}
	delay := crashDelays[min(c.Count, len(crashDelays)-1)]
	return Crash{Count: c.Count + 1, Last: now, Until: now.Add(delay), Reason: reason}
}
