package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/fluxgate/fluxgate/router"
)

// App is an app as listings show it.
type App struct {
	Name       string     `json:"name"`
	URL        string     `json:"url" doc:"Its main address"`
	URLs       []string   `json:"urls" doc:"All its addresses, the main one first"`
	Owner      string     `json:"owner" doc:"Name of the token that created it"`
	State      AppState   `json:"state" enum:"ready,starting,frozen,stopped,absent,crashed,empty" doc:"How awake it is: the state of its most awake instance; crashed: no start before crash.until; empty: nothing was deployed yet"`
	Release    int        `json:"release" doc:"Number of the serving release; 0 where there is none"`
	Instances  Counts     `json:"instances"`
	RPS        float64    `json:"rps" doc:"Requests a second, over the last five seconds"`
	InFlight   int64      `json:"in_flight" doc:"Requests that were being served two seconds ago"`
	Queued     int64      `json:"queued" doc:"Requests that were waiting two seconds ago"`
	LastActive *time.Time `json:"last_active,omitempty" doc:"When the last request came"`
	Created    time.Time  `json:"created"`
	Crash      *Crash     `json:"crash,omitempty" doc:"The crash backoff, while it holds"`
	Death      *Death     `json:"death,omitempty" doc:"The last death of an instance, where it was in the last ten minutes"`
}

// Death is how an app's last instance died that did.
type Death struct {
	At     time.Time `json:"at"`
	Count  int       `json:"count" doc:"Deaths in a row"`
	Reason string    `json:"reason"`
	Advice string    `json:"advice,omitempty" doc:"What to do about it"`
}

// AppState is how awake an app is.
type AppState string

// The states beside those of the most awake instance.
const (
	AppAbsent  AppState = "absent"
	AppCrashed AppState = "crashed"
	AppEmpty   AppState = "empty"
)

// Counts are instances by state.
type Counts struct {
	Ready    int `json:"ready"`
	Starting int `json:"starting"`
	Draining int `json:"draining"`
	Frozen   int `json:"frozen"`
	Stopped  int `json:"stopped"`
	Failed   int `json:"failed"`
}

// Crash is the crash backoff of an app.
type Crash struct {
	Count  int       `json:"count" doc:"Deaths in a row"`
	Until  time.Time `json:"until" doc:"No start before this"`
	Reason string    `json:"reason" doc:"Of the last death"`
}

// Instance is one container of an app.
type Instance struct {
	ID       string               `json:"id"`
	App      string               `json:"app"`
	Release  int                  `json:"release"`
	Serving  bool                 `json:"serving" doc:"Whether its release is the serving one"`
	Node     string               `json:"node"`
	State    router.InstanceState `json:"state" enum:"starting,ready,draining,frozen,stopped,failed"`
	Since    time.Time            `json:"since" doc:"When it entered the state"`
	Doing    string               `json:"doing,omitempty" doc:"What is being done to it: create, start, thaw, freeze, stop, remove"`
	Address  string               `json:"address,omitempty"`
	ExitCode int                  `json:"exit_code,omitempty"`
	Reason   string               `json:"reason,omitempty" doc:"Why it failed"`
	Usage    *Usage               `json:"usage,omitempty" doc:"What it used when last looked at, within half a minute"`
}

// Usage is what an instance uses of its node.
type Usage struct {
	At          time.Time `json:"at"`
	CPU         float64   `json:"cpu" doc:"Cores, on average over some ten seconds"`
	CPULimit    float64   `json:"cpu_limit,omitempty" doc:"Cores that it may use; left out: all"`
	Memory      int64     `json:"memory" doc:"Bytes"`
	MemoryLimit int64     `json:"memory_limit,omitempty" doc:"Bytes above which it is killed; left out: none"`
	Advice      string    `json:"advice,omitempty" doc:"What to do where it is short of CPU or memory"`
}

// AppPath is the path parameter that most endpoints have. It is exported because
// huma does not fill unexported embedded structs.
type AppPath struct {
	App string `path:"app" maxLength:"40" doc:"The app's name"`
}

func (s *Server) registerApps() {
	type appsInput struct {
		Died bool `query:"died" doc:"Only apps of which an instance died in the last ten minutes"`
	}
	register(s, huma.Operation{
		OperationID: "list-apps", Method: http.MethodGet, Path: "/v1/apps", Summary: "All apps", Tags: []string{"apps"},
	}, func(ctx context.Context, in *appsInput) ([]App, error) {
		states := s.b.Catalog.All()
		if in.Died {
			states = slices.DeleteFunc(states, func(st *router.AppState) bool { return !s.died(st) })
		}
		return s.apps(ctx, states)
	})
	register(s, huma.Operation{
		OperationID: "get-app", Method: http.MethodGet, Path: "/v1/apps/{app}", Summary: "One app", Tags: []string{"apps"},
	}, func(ctx context.Context, in *AppPath) (App, error) {
		st, err := s.find(in.App)
		if err != nil {
			return App{}, err
		}
		apps, err := s.apps(ctx, []*router.AppState{st})
		if err != nil {
			return App{}, err
		}
		return apps[0], nil
	})
	registerEmpty(s, huma.Operation{
		OperationID: "delete-app", Method: http.MethodDelete, Path: "/v1/apps/{app}", Summary: "Remove an app: its instances, releases, secrets and hostnames", Tags: []string{"apps"},
	}, func(ctx context.Context, in *AppPath) error {
		done, err := s.busy.claim(in.App, "removal")
		if err != nil {
			return err
		}
		defer done()
		if _, err := s.b.Apps.Load(ctx, in.App); err != nil {
			return err
		}
		if err := s.begin(); err != nil {
			return err
		}
		defer s.work.Done()
		ctx, cancel := s.deployContext(ctx)
		defer cancel()
		return s.b.Deployer.Delete(ctx, in.App)
	})
	register(s, huma.Operation{
		OperationID: "list-instances", Method: http.MethodGet, Path: "/v1/instances", Summary: "The instances of all apps", Tags: []string{"apps"},
	}, func(ctx context.Context, _ *none) ([]Instance, error) {
		return s.withUsage(ctx, instances(s.b.Catalog.Living()...)), nil
	})
	register(s, huma.Operation{
		OperationID: "list-app-instances", Method: http.MethodGet, Path: "/v1/apps/{app}/instances", Summary: "The instances of one app", Tags: []string{"apps"},
	}, func(ctx context.Context, in *AppPath) ([]Instance, error) {
		st, err := s.find(in.App)
		if err != nil {
			return nil, err
		}
		return s.withUsage(ctx, instances(st)), nil
	})
	type whyInput struct {
		AppPath
		Limit int       `query:"limit" minimum:"1" maximum:"500" default:"20" doc:"How many entries"`
		At    time.Time `query:"at" doc:"Entries around this time, before and after it, instead of the last"`
	}
	register(s, huma.Operation{
		OperationID: "why", Method: http.MethodGet, Path: "/v1/apps/{app}/history", Summary: "The last scaling decisions, wakes, crashes and deploys, newest first", Tags: []string{"apps"},
	}, func(ctx context.Context, in *whyInput) ([]router.Event, error) {
		if _, err := s.find(in.App); err != nil {
			return nil, err
		}
		events, err := s.b.History.History(ctx, in.App, in.At, in.Limit)
		if events == nil {
			events = []router.Event{}
		}
		return events, err
	})
}

// find is an app's record as this gateway last saw it.
func (s *Server) find(name string) (*router.AppState, error) {
	st, ok := s.b.Catalog.Get(name)
	if !ok {
		return nil, router.Errorf(router.CodeNotFound, "there is no app %q; `fluxgate apps` lists them", name)
	}
	return st, nil
}

// rateSeconds is how many whole seconds the shown request rate averages.
const rateSeconds = 5

// apps shows records together with what the gateways counted.
func (s *Server) apps(ctx context.Context, states []*router.AppState) ([]App, error) {
	apps := make([]App, 0, len(states))
	if len(states) == 0 {
		return apps, nil
	}
	names := make([]string, len(states))
	for i, st := range states {
		names[i] = st.App.Name
	}
	active, err := s.b.Activity.LastActive(ctx, names)
	if err != nil {
		return nil, err
	}
	// The running second and the one before it may not be flushed yet.
	to := s.now().Add(-2 * time.Second).Truncate(time.Second)
	rates, err := s.b.Activity.Rates(ctx, to.Add(-(rateSeconds-1)*time.Second), to)
	if err != nil {
		return nil, err
	}
	for _, st := range states {
		a := s.app(st)
		if t, ok := active[a.Name]; ok && !t.IsZero() {
			a.LastActive = &t
		}
		for _, samples := range rates {
			a.RPS += float64(samples[a.Name].Requests) / rateSeconds
		}
		last := rates[to.Unix()][a.Name]
		a.InFlight, a.Queued = last.InFlight, last.Queued
		apps = append(apps, a)
	}
	return apps, nil
}

func (s *Server) app(st *router.AppState) App {
	a := App{Name: st.App.Name, Owner: st.App.Owner, Release: st.App.Current, Created: st.App.Created}
	for _, host := range st.App.Hosts(s.b.Domain) {
		a.URLs = append(a.URLs, s.url(host))
	}
	a.URL = a.URLs[0]
	for _, in := range st.Instances {
		switch in.State {
		case router.Ready:
			a.Instances.Ready++
		case router.Starting:
			a.Instances.Starting++
		case router.Draining:
			a.Instances.Draining++
		case router.Frozen:
			a.Instances.Frozen++
		case router.Stopped:
			a.Instances.Stopped++
		case router.Failed:
			a.Instances.Failed++
		}
	}
	a.State = appState(st)
	if c := st.App.Crash; s.died(st) {
		a.Death = &Death{At: c.Last, Count: c.Count, Reason: c.Reason, Advice: c.AdviceOnLoop(a.Name)}
	}
	if c := st.App.Crash; s.now().Before(c.Until) {
		a.Crash = &Crash{Count: c.Count, Until: c.Until, Reason: c.Reason}
		if a.State != AppState(router.Ready) {
			a.State = AppCrashed
		}
	}
	return a
}

// died reports whether an instance of an app died lately.
func (s *Server) died(st *router.AppState) bool {
	return st.App.Crash.Count > 0 && s.now().Sub(st.App.Crash.Last) < router.CrashHealthy
}

// appState is the state of the most awake instance of the serving release.
func appState(st *router.AppState) AppState {
	if _, ok := st.Serving(); !ok {
		return AppEmpty
	}
	for _, state := range []router.InstanceState{router.Ready, router.Starting, router.Draining, router.Frozen, router.Stopped} {
		if st.Count(st.App.Current, state) == 0 {
			continue
		}
		if state == router.Draining { // on its way down, but thawed and serving its last requests
			return AppState(router.Ready)
		}
		return AppState(state)
	}
	return AppAbsent
}

func instances(states ...*router.AppState) []Instance {
	list := []Instance{}
	for _, st := range states {
		for _, in := range st.Instances {
			list = append(list, Instance{
				ID: in.ID, App: in.App, Release: in.Release, Serving: in.Release == st.App.Current, Node: in.Node,
				State: in.State, Since: in.Since, Doing: in.Claim.Op, Address: in.Addr, ExitCode: in.ExitCode, Reason: in.Reason,
			})
		}
	}
	return list
}
