package podman

import (
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

func TestLifecycle(t *testing.T) {
	n := connect(t)
	ctx := t.Context()
	in, rel := instance(), release(appImage(t, n))

	id, err := n.Create(ctx, in, rel)
	must(t, err)
	c, err := n.Inspect(ctx, in)
	must(t, err)
	if c.ID != id || c.Instance != in.ID || c.App != "hello" || c.Release != 3 || c.Node != "n1" || c.State != router.ContainerCreated {
		t.Errorf("created: %+v", c)
	}
	addr, err := n.Start(ctx, in)
	must(t, err)
	eventually(t, "the app answers", func() bool { return get(addr, "/") == "hello" })
	if env := get(addr, "/env"); !strings.Contains(env, "GREETING=hi\n") || !strings.Contains(env, "PORT=8080\n") {
		t.Errorf("environment is %q", env)
	}
	c, err = n.Inspect(ctx, in)
	must(t, err)
	if c.State != router.ContainerRunning || c.Addr != addr {
		t.Errorf("running: %+v, started at %s", c, addr)
	}

	must(t, n.Freeze(ctx, in))
	if got := get(addr, "/"); got != "" {
		t.Errorf("a frozen app answered %q", got)
	}
	c, err = n.Inspect(ctx, in)
	must(t, err)
	if c.State != router.ContainerPaused || c.Addr != addr {
		t.Errorf("frozen: %+v", c)
	}
	must(t, n.Thaw(ctx, in))
	if got := get(addr, "/"); got != "hello" {
		t.Errorf("a thawed app answered %q", got)
	}

	must(t, n.Stop(ctx, in, 5*time.Second))
	c, err = n.Inspect(ctx, in)
	must(t, err)
	if c.State != router.ContainerExited || c.Addr != "" || c.ExitCode != 0 {
		t.Errorf("stopped: %+v", c)
	}
	said, err := n.Tail(ctx, in, 1)
	must(t, err)
	if said != "app was asked to stop" {
		t.Errorf("the app's last words are %q: it was not asked to stop", said)
	}
	addr, err = n.Start(ctx, in)
	must(t, err)
	eventually(t, "the app answers after another start", func() bool { return get(addr, "/") == "hello" })

	must(t, n.Remove(ctx, in))
	_, err = n.Inspect(ctx, in)
	wantCode(t, err, router.CodeNotFound)
}

func TestEveryStepMayBeRepeated(t *testing.T) {
	n := connect(t)
	ctx := t.Context()
	in, rel := instance(), release(appImage(t, n))
	first, err := n.Create(ctx, in, rel)
	must(t, err)
	second, err := n.Create(ctx, in, rel)
	must(t, err)
	if first != second {
		t.Errorf("created twice: %s and %s", first, second)
	}
	addr, err := n.Start(ctx, in)
	must(t, err)
	again, err := n.Start(ctx, in)
	must(t, err)
	if addr != again {
		t.Errorf("started at %s, and again at %s", addr, again)
	}
	must(t, n.Thaw(ctx, in)) // it runs
	must(t, n.Freeze(ctx, in))
	must(t, n.Freeze(ctx, in))
	again, err = n.Start(ctx, in) // frozen
	must(t, err)
	if addr != again {
		t.Errorf("started at %s, and from the freezer at %s", addr, again)
	}
	eventually(t, "the app answers", func() bool { return get(addr, "/") != "" })
	must(t, n.Freeze(ctx, in))
	must(t, n.Stop(ctx, in, 5*time.Second)) // frozen
	must(t, n.Stop(ctx, in, 5*time.Second))
	wantCode(t, n.Freeze(ctx, in), router.CodeFailed)
	wantCode(t, n.Thaw(ctx, in), router.CodeFailed)
	must(t, n.Remove(ctx, in))
	must(t, n.Remove(ctx, in))

	wantCode(t, n.Freeze(ctx, in), router.CodeNotFound)
	wantCode(t, n.Thaw(ctx, in), router.CodeNotFound)
	wantCode(t, n.Stop(ctx, in, 0), router.CodeNotFound)
	_, err = n.Start(ctx, in)
	wantCode(t, err, router.CodeNotFound)
	_, err = n.Tail(ctx, in, 5)
	wantCode(t, err, router.CodeNotFound)
}

func TestRemoveInEveryState(t *testing.T) {
	n := connect(t)
	rel := release(appImage(t, n))
	states := map[string]func(in router.Instance) error{
		"created": func(router.Instance) error { return nil },
		"running": func(in router.Instance) error { _, err := n.Start(t.Context(), in); return err },
		"frozen": func(in router.Instance) error {
			_, err := n.Start(t.Context(), in)
			return errors.Join(err, n.Freeze(t.Context(), in))
		},
		"stopped": func(in router.Instance) error {
			_, err := n.Start(t.Context(), in)
			return errors.Join(err, n.Stop(t.Context(), in, 0))
		},
	}
	for name, bring := range states {
		t.Run(name, func(t *testing.T) {
			in := instance()
			_, err := n.Create(t.Context(), in, rel)
			must(t, err)
			must(t, bring(in))
			must(t, n.Remove(t.Context(), in))
			_, err = n.Inspect(t.Context(), in)
			wantCode(t, err, router.CodeNotFound)
		})
	}
}

func TestLimitsApply(t *testing.T) {
	n := connect(t)
	rel := release(appImage(t, n))
	rel.Run.CPU, rel.Run.Memory = 0.25, 48<<20
	_, addr := running(t, n, rel)
	file := func(names ...string) string {
		for _, name := range names {
			if s := get(addr, "/file?name="+name); s != "" && !strings.Contains(s, "no such file") {
				return strings.TrimSpace(s)
			}
		}
		return ""
	}
	const v1, v2 = "/sys/fs/cgroup/", "/sys/fs/cgroup/"
	if got := file(v2+"memory.max", v1+"memory/memory.limit_in_bytes"); got != "50331648" {
		t.Errorf("memory limit is %q", got)
	}
	if got := file(v2+"pids.max", v1+"pids/pids.max"); got != "1024" {
		t.Errorf("pids limit is %q", got)
	}
	if got := file(v2+"cpu.max", v1+"cpu/cpu.cfs_quota_us"); got != "25000 100000" && got != "25000" {
		t.Errorf("cpu limit is %q", got)
	}
	status := get(addr, "/file?name=/proc/self/status")
	if !strings.Contains(status, "NoNewPrivs:\t1\n") {
		t.Error("the app may gain privileges")
	}
	// CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, NET_BIND_SERVICE
	if !strings.Contains(status, "CapBnd:\t00000000000004eb\n") {
		t.Errorf("capabilities are not those allowed: %s", status)
	}
	if mounts := get(addr, "/file?name=/proc/self/mounts"); !strings.Contains(mounts, "tmpfs /data tmpfs") {
		t.Errorf("the image's volume is not in memory: %s", mounts)
	}
}

func TestStartFailures(t *testing.T) {
	n := connect(t)
	image := appImage(t, n)
	tests := map[string]struct {
		change func(*router.Release)
		create router.Code
		start  router.Code
		text   string
	}{
		"no such image":   {change: func(r *router.Release) { r.Image = "sha256:" + strings.Repeat("0", 64) }, create: router.CodeNotFound, text: "is not there"},
		"no such program": {change: func(r *router.Release) { r.Image = noProgram(t, n) }, start: router.CodeFailed, text: "cannot be run"},
		"ends at once":    {change: func(r *router.Release) { r.Run.Command = []string{"exit", "7"} }, start: router.CodeFailed, text: "code 7"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			in, rel := instance(), release(image)
			tt.change(&rel)
			_, err := n.Create(t.Context(), in, rel)
			if tt.create != "" {
				wantCode(t, err, tt.create)
			} else {
				must(t, err)
				// An app that ends at once may still be seen running.
				eventually(t, "the start fails", func() bool {
					_, err = n.Start(t.Context(), in)
					return err != nil
				})
				wantCode(t, err, tt.start)
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error is %q, without %q", err, tt.text)
			}
		})
	}
}

// noProgram is an image whose entry point is not there.
func noProgram(t *testing.T, n *Node) string {
	t.Helper()
	id, err := n.Build(t.Context(), "broken", router.Source{Kind: router.SourceContainerfile, Path: "Containerfile"},
		files(t, "Containerfile", "FROM scratch\nCOPY a /a\nENTRYPOINT [\"/not/there\"]\n", "a", "a"), io.Discard)
	must(t, err)
	return id
}

func TestManyStartAtOnce(t *testing.T) {
	n := connect(t)
	rel := release(appImage(t, n))
	const many = 50
	addrs := make([]string, many)
	errs := make([]error, many)
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			in := instance()
			if _, errs[i] = n.Create(t.Context(), in, rel); errs[i] == nil {
				addrs[i], errs[i] = n.Start(t.Context(), in)
			}
		})
	}
	wg.Wait()
	must(t, errors.Join(errs...))
	for _, addr := range addrs {
		eventually(t, addr+" answers", func() bool { return get(addr, "/") == "hello" })
	}
}

func TestInstallationsDoNotTouchEachOther(t *testing.T) {
	a := connect(t)
	b := connect(t, func(o *Options) { o.Owner += "-other" })
	rel := release(appImage(t, a))
	in, addr := running(t, a, rel)
	list, err := b.Containers(t.Context())
	must(t, err)
	if len(list) != 0 {
		t.Errorf("the other installation sees %+v", list)
	}
	_, err = b.Create(t.Context(), in, rel)
	wantCode(t, err, router.CodeConflict)
	wantCode(t, b.Remove(t.Context(), in), router.CodeConflict)
	if get(addr, "/") != "hello" {
		t.Error("the container did not outlive the other installation's removal")
	}
	list, err = a.Containers(t.Context())
	must(t, err)
	if len(list) != 1 || list[0].Instance != in.ID || list[0].Addr != addr || list[0].State != router.ContainerRunning {
		t.Errorf("its own installation sees %+v", list)
	}
}

func TestPublishedPort(t *testing.T) {
	n := connect(t)
	f := *n.facts.Load()
	f.Direct = false
	n.facts.Store(&f)
	in, addr := running(t, n, release(appImage(t, n)))
	if !strings.HasPrefix(addr, "127.0.0.1:") {
		t.Fatalf("published at %s", addr)
	}
	must(t, n.Stop(t.Context(), in, 0))
	addr, err := n.Start(t.Context(), in)
	must(t, err)
	eventually(t, "it answers after another start", func() bool { return get(addr, "/") == "hello" })
}
