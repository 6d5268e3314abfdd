package state

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

type appRecord struct {
	stamp
	Name    string            `json:"name"`
	Owner   string            `json:"owner,omitempty"`
	Domains []string          `json:"domains,omitempty"`
	Current int               `json:"current,omitempty"`
	Next    int               `json:"next,omitempty"`
	Policy  policyRecord      `json:"policy"`
	Secrets map[string]string `json:"secrets,omitempty"`
	Crash   crashRecord       `json:"crash,omitzero"`
	Created time.Time         `json:"created,omitzero"`

	PolicyBy string    `json:"policy_by,omitempty"`
	PolicyAt time.Time `json:"policy_at,omitzero"`
}

type policyRecord struct {
	Min               int             `json:"min"`
	Max               int             `json:"max"`
	TargetRPS         float64         `json:"target_rps"`
	TargetConcurrency float64         `json:"target_concurrency"`
	TargetUtilization float64         `json:"target_utilization"`
	MaxConcurrency    int             `json:"max_concurrency"`
	FastWindow        router.Duration `json:"fast_window"`
	SlowWindow        router.Duration `json:"slow_window"`
	CoolDown          router.Duration `json:"cool_down"`
	MaxScaleUpRate    int             `json:"max_scale_up_rate"`
	WakeCost          float64         `json:"wake_cost"`
	FreezeAfter       router.Duration `json:"freeze_after"`
	StopAfter         router.Duration `json:"stop_after"`
	RemoveAfter       router.Duration `json:"remove_after"`
	WakeDeadline      router.Duration `json:"wake_deadline"`
	QueueDepth        int             `json:"queue_depth"`
	QueueDeadline     router.Duration `json:"queue_deadline"`
	Prefetch          int             `json:"prefetch,omitempty"`
	Schedule          router.Schedule `json:"schedule,omitempty"`
	Budget            float64         `json:"budget,omitempty"`
	BusyMax           router.Duration `json:"busy_max"`
	FreezeSockets     bool            `json:"freeze_sockets,omitempty"`
}

// UnmarshalJSON gives what an older version did not write its default.
func (r *policyRecord) UnmarshalJSON(raw []byte) error {
	type plain policyRecord // without this method
	p := plain(router.DefaultPolicy())
	p.Prefetch = 0 // it is omitted when it is 0
	err := json.Unmarshal(raw, &p)
	*r = policyRecord(p)
	return err
}

type crashRecord struct {
	Count  int       `json:"count,omitempty"`
	Last   time.Time `json:"last,omitzero"`
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason,omitempty"`
}

type releaseRecord struct {
	stamp
	Number  int               `json:"number"`
	Image   string            `json:"image,omitempty"`
	Source  sourceRecord      `json:"source"`
	Run     runRecord         `json:"run"`
	Env     map[string]string `json:"env,omitempty"`
	Secrets map[string]string `json:"secrets,omitempty"`
	Digest  string            `json:"digest,omitempty"`
	Failed  string            `json:"failed,omitempty"`
	By      string            `json:"by,omitempty"`
	Note    string            `json:"note,omitempty"`
	Created time.Time         `json:"created,omitzero"`
}

type sourceRecord struct {
	Kind router.SourceKind `json:"kind"`
	Path string            `json:"path,omitempty"`
}

type runRecord struct {
	Command []string        `json:"command,omitempty"`
	Port    int             `json:"port"`
	Health  string          `json:"health,omitempty"`
	Sticky  bool            `json:"sticky,omitempty"`
	Timeout router.Duration `json:"timeout"`
	CPU     float64         `json:"cpu,omitempty"`
	Memory  router.Bytes    `json:"memory"`
	Reserve router.Bytes    `json:"reserve,omitempty"`

	Placement router.Placement `json:"placement,omitzero"`
}

type instanceRecord struct {
	stamp
	Release   int                  `json:"release"`
	Node      string               `json:"node,omitempty"`
	Container string               `json:"container,omitempty"`
	State     router.InstanceState `json:"state"`
	Addr      string               `json:"addr,omitempty"`
	Claim     claimRecord          `json:"claim,omitzero"`
	Since     time.Time            `json:"since,omitzero"`
	IdleSince time.Time            `json:"idle_since,omitzero"`
	BusyUntil time.Time            `json:"busy_until,omitzero"`
	ExitCode  int                  `json:"exit_code,omitempty"`
	Reason    string               `json:"reason,omitempty"`
}

type claimRecord struct {
	Holder string    `json:"holder"`
	Op     string    `json:"op"`
	Until  time.Time `json:"until"`
}

func encodeApp(a router.App) string {
	a.Crash.Last, a.Crash.Until = a.Crash.Last.UTC(), a.Crash.Until.UTC()
	return encode(appRecord{
		current, a.Name, a.Owner, a.Domains, a.Current, a.Next, policyRecord(a.Policy),
		reveal(a.Secrets), crashRecord(a.Crash), a.Created.UTC(),
		a.PolicyBy, a.PolicyAt.UTC(),
	})
}

func decodeApp(name, raw string) (router.App, error) {
	r, err := decode[appRecord]("app "+name, raw)
	return router.App{
		Name: name, Owner: r.Owner, Domains: r.Domains, Current: r.Current, Next: r.Next,
		Policy: router.Policy(r.Policy), Secrets: conceal(r.Secrets), Crash: router.Crash(r.Crash), Created: r.Created,
		PolicyBy: r.PolicyBy, PolicyAt: r.PolicyAt,
	}, err
}

func encodeRelease(r router.Release) string {
	return encode(releaseRecord{
		current, r.Number, r.Image, sourceRecord(r.Source), runRecord(r.Run),
		r.Env, reveal(r.Secrets), r.Digest, r.Failed, r.By, r.Note, r.Created.UTC(),
	})
}

func decodeRelease(app string, number int, raw string) (router.Release, error) {
	r, err := decode[releaseRecord](fmt.Sprintf("release v%d of app %s", number, app), raw)
	return router.Release{
		App: app, Number: number, Image: r.Image, Source: router.Source(r.Source), Run: router.Run(r.Run),
		Env: r.Env, Secrets: conceal(r.Secrets), Digest: r.Digest, Failed: r.Failed, By: r.By, Note: r.Note, Created: r.Created,
	}, err
}

func encodeInstance(in router.Instance) string {
	in.Claim.Until = in.Claim.Until.UTC()
	return encode(instanceRecord{
		current, in.Release, in.Node, in.Container, in.State, in.Addr,
		claimRecord(in.Claim), in.Since.UTC(), in.IdleSince.UTC(), in.BusyUntil.UTC(), in.ExitCode, in.Reason,
	})
}

func decodeInstance(app, id, raw string) (router.Instance, error) {
	r, err := decode[instanceRecord]("instance "+id, raw)
	return router.Instance{
		ID: id, App: app, Release: r.Release, Node: r.Node, Container: r.Container, State: r.State,
		Addr: r.Addr, Claim: router.Claim(r.Claim), Since: r.Since, IdleSince: r.IdleSince, BusyUntil: r.BusyUntil, ExitCode: r.ExitCode, Reason: r.Reason,
	}, err
}

// The fields of an app's hash.
const (
	fieldVersion  = "v"
	fieldWrites   = "w"
	fieldApp      = "app"
	releasePrefix = "rel:"
	instPrefix    = "ins:"
)

func releaseField(number int) string { return releasePrefix + strconv.Itoa(number) }

// decodeState puts an app together from its hash, which must not be empty.
func decodeState(name string, hash map[string]string, known *releaseCache) (router.AppState, error) {
	var st router.AppState
	damaged := func(field string) (router.AppState, error) {
		return router.AppState{}, router.Errorf(router.CodeInternal, "the stored record of app %s is damaged: its field %q cannot be read", name, field)
	}
	var err error
	if st.Version, err = strconv.ParseUint(hash[fieldVersion], 10, 64); err != nil {
		return damaged(fieldVersion)
	}
	raw, ok := hash[fieldApp]
	if !ok {
		return damaged(fieldApp)
	}
	if st.App, err = decodeApp(name, raw); err != nil {
		return router.AppState{}, err
	}
	releases, instances := 0, 0 // exactly as many: there may be very many apps
	for field := range hash {
		switch {
		case strings.HasPrefix(field, releasePrefix):
			releases++
		case strings.HasPrefix(field, instPrefix):
			instances++
		}
	}
	if releases > 0 {
		st.Releases = make([]router.Release, 0, releases)
	}
	if instances > 0 {
		st.Instances = make([]router.Instance, 0, instances)
	}
	for field, raw := range hash {
		if text, ok := strings.CutPrefix(field, releasePrefix); ok {
			number, err := strconv.Atoi(text)
			if err != nil {
				return damaged(field)
			}
			r, err := known.decode(name, number, raw)
			if err != nil {
				return router.AppState{}, err
			}
			st.Releases = append(st.Releases, r)
		} else if id, ok := strings.CutPrefix(field, instPrefix); ok {
			in, err := decodeInstance(name, id, raw)
			if err != nil {
				return router.AppState{}, err
			}
			st.Instances = append(st.Instances, in)
		}
	}
	slices.SortFunc(st.Releases, func(a, b router.Release) int { return cmp.Compare(a.Number, b.Number) })
	slices.SortFunc(st.Instances, func(a, b router.Instance) int { return cmp.Compare(a.ID, b.ID) })
	share(st.Releases)
	return st, nil
}

// share has releases use what those before them hold already: most of a release
// is as it was in the one before. Nobody changes what is in a release.
func share(releases []router.Release) {
	for i := 1; i < len(releases); i++ {
		before, r := &releases[i-1], &releases[i]
		for _, s := range [][2]*string{
			{&before.Image, &r.Image},
			{&before.Source.Path, &r.Source.Path},
			{&before.Digest, &r.Digest},
			{&before.Run.Health, &r.Run.Health},
			{&before.By, &r.By},
			{&before.Note, &r.Note},
			{(*string)(&before.Source.Kind), (*string)(&r.Source.Kind)},
		} {
			if *s[0] == *s[1] {
				*s[1] = *s[0]
			}
		}
		if maps.Equal(before.Env, r.Env) {
			r.Env = before.Env
		}
		if maps.Equal(before.Secrets, r.Secrets) {
			r.Secrets = before.Secrets
		}
		if slices.Equal(before.Run.Command, r.Run.Command) {
			r.Run.Command = before.Run.Command
		}
	}
}

// diff is what turns the hash of prev into that of next: fields to set, with
// their values, and fields to remove.
func diff(prev, next router.AppState) (set, drop []string) {
	put := func(field, before, after string) {
		if before != after {
			set = append(set, field, after)
		}
	}
	if prev.Version == 0 {
		put(fieldApp, "", encodeApp(next.App))
	} else if !reflect.DeepEqual(prev.App, next.App) {
		put(fieldApp, encodeApp(prev.App), encodeApp(next.App))
	}
	for i := range next.Releases {
		after := &next.Releases[i]
		before, ok := prev.Release(after.Number)
		switch {
		case !ok:
			put(releaseField(after.Number), "", encodeRelease(*after))
		case !reflect.DeepEqual(before, after):
			put(releaseField(after.Number), encodeRelease(*before), encodeRelease(*after))
		}
	}
	for i := range prev.Releases {
		if _, ok := next.Release(prev.Releases[i].Number); !ok {
			drop = append(drop, releaseField(prev.Releases[i].Number))
		}
	}
	gone := make(map[string]*router.Instance, len(prev.Instances)) // of prev, those not yet found in next
	for i := range prev.Instances {
		gone[prev.Instances[i].ID] = &prev.Instances[i]
	}
	for i := range next.Instances {
		after := &next.Instances[i]
		before, ok := gone[after.ID]
		delete(gone, after.ID)
		switch {
		case !ok:
			put(instPrefix+after.ID, "", encodeInstance(*after))
		case *before != *after:
			put(instPrefix+after.ID, encodeInstance(*before), encodeInstance(*after))
		}
	}
	for id := range gone {
		drop = append(drop, instPrefix+id)
	}
	return set, drop
}
