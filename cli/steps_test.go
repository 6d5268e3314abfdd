package cli_test

import (
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Calls of Podman's API, as engineProxy sees them.
const (
	callBuild   = `^POST .*/build$`
	callCreate  = `^POST .*/containers/create$`
	callStart   = `^POST .*/containers/[^/]+/start$`
	callPause   = `^POST .*/containers/[^/]+/pause$`
	callUnpause = `^POST .*/containers/[^/]+/unpause$`
	callStop    = `^POST .*/containers/[^/]+/stop$`
	callRemove  = `^DELETE .*/containers/[^/]+$`
)

// settles waits until Podman has exactly the recorded containers of an app.
func (m *machine) settles(app string) {
	m.t.Helper()
	var recorded, there []string
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		recorded, there = nil, nil
		for _, in := range m.ps(app) {
			recorded = append(recorded, in.ID)
		}
		for id := range containers(m.t, app) {
			there = append(there, id)
		}
		sort.Strings(recorded)
		sort.Strings(there)
		if slices.Equal(recorded, there) {
			return
		}
	}
	m.t.Errorf("%s has the containers %v and the records %v", app, there, recorded)
}

// TestKilledInEveryStep is contract 5 at every call to Podman that a push, a
// wake and the way down are made of: the gateway is killed before the call
// reaches Podman, or after it was carried out and before that is known.
func TestKilledInEveryStep(t *testing.T) {
	m := newMachine(t)
	p := newEngineProxy(t, m.dir, podmanURL)
	start := func() { m.start("--node", p.url) }
	start()
	const (
		naps  = "[scale]\nfreeze_after = \"1s\"\n"
		stops = "[scale]\nfreeze_after = \"1s\"\nstop_after = \"1s\"\n"
		goes  = "[scale]\nfreeze_after = \"1s\"\nstop_after = \"1s\"\nremove_after = \"1s\"\n"
	)
	m.push("naps", naps)
	m.push("stops", stops)
	m.push("goes", goes)
	pushes := 0
	push := func(app, manifest string) func() {
		return func() {
			pushes++
			_, _ = m.try("push", m.appFolder(app, fmt.Sprintf("[env]\nPUSH = \"%d\"\n%s", pushes, manifest)))
		}
	}
	ask := func(app string) func() {
		client := m.client()
		return func() { _, _ = fetch(client, m.app(app, "/")) }
	}
	type step struct {
		call    string
		prepare func()        // before the trap is set
		begin   func() func() // what makes the call; may be cut off
	}
	awake := func(app string) func() { return func() { m.get(m.client(), app, "/") } }
	absent := func() {
		if slices.Contains(m.apps(), "first") {
			m.run("rm", "--yes", "first")
		}
	}
	rests := func(app string, states ...string) func() { return func() { m.awaitState(app, states...) } }
	steps := map[string]step{
		"push, build":                 {callBuild, nil, func() func() { return push("naps", naps) }},
		"push, create":                {callCreate, nil, func() func() { return push("naps", naps) }},
		"push, start":                 {callStart, nil, func() func() { return push("naps", naps) }},
		"push, the old one is frozen": {callPause, awake("naps"), func() func() { return push("naps", naps) }},
		"first push, create":          {callCreate, absent, func() func() { return push("first", naps) }},
		"first push, start":           {callStart, absent, func() func() { return push("first", naps) }},
		"wake, thaw":                  {callUnpause, func() { m.awaitRest("naps") }, func() func() { return ask("naps") }},
		"wake, start":                 {callStart, rests("stops", "stopped"), func() func() { return ask("stops") }},
		"wake, create":                {callCreate, rests("goes"), func() func() { return ask("goes") }},
		"wake, start of a new one":    {callStart, rests("goes"), func() func() { return ask("goes") }},
		"down, freeze":                {callPause, nil, func() func() { return ask("naps") }},
		"down, stop":                  {callStop, nil, func() func() { return ask("stops") }},
		"down, remove":                {callRemove, rests("goes"), func() func() { return ask("goes") }},
		"rm":                          {callRemove, awake("first"), func() func() { return func() { _, _ = m.try("rm", "--yes", "first") } }},
	}
	for _, name := range []string{ // "first" is there for rm
		"push, build", "push, create", "push, start", "wake, thaw", "wake, start", "wake, create", "wake, start of a new one",
		"down, freeze", "down, stop", "down, remove", "push, the old one is frozen", "first push, create", "first push, start", "rm",
	} {
		s := steps[name]
		for _, before := range []bool{true, false} {
			when := map[bool]string{true: "before", false: "after"}[before]
			ok := t.Run(name+", "+when, func(t *testing.T) {
				m.t = t
				if name == "rm" && !slices.Contains(m.apps(), "first") {
					m.push("first", naps)
				}
				if strings.HasPrefix(name, "push") {
					// What earlier releases left must not make the call.
					m.awaitRest("naps")
				}
				if s.prepare != nil {
					s.prepare()
				}
				begin := s.begin()
				pid := m.up.Process.Pid
				sprung := p.at(s.call, before, func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					begin()
				}()
				select {
				case <-sprung:
				case <-time.After(60 * time.Second):
					t.Fatalf("no such call was made; the gateway said:\n%s", m.out)
				}
				<-ended
				m.kill()
				start()
				client := m.client()
				for _, app := range []string{"naps", "stops", "goes"} {
					m.get(client, app, "/")
				}
				for _, app := range []string{"naps", "stops", "goes"} {
					m.settles(app)
				}
				// A first push or a removal was carried out, or nothing of it, or the
				// same command does the rest; no container stays without a record.
				first, err := fetch(client, m.app("first", "/"))
				switch answers := err == nil && first.status == http.StatusOK; {
				case answers != slices.Contains(m.apps(), "first"):
					m.push("first", naps)
					m.get(m.client(), "first", "/")
					m.settles("first")
				case !answers:
					eventually(t, "what is left of it is removed", func() bool { return len(containers(t, "first")) == 0 })
				}
			})
			m.t = t
			if !ok {
				t.FailNow()
			}
		}
	}
}

// awaitRest waits until one instance of an app sleeps or serves, and no other
// is on its way.
func (m *machine) awaitRest(app string) {
	m.t.Helper()
	eventually(m.t, app+" is at rest", func() bool {
		return !slices.ContainsFunc(m.ps(app), func(in instance) bool { return in.State != "frozen" })
	})
}
