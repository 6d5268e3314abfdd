package api

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// PushSpec says what a push is of.
type PushSpec struct {
	Manifest string  `json:"manifest,omitempty" maxLength:"262144" doc:"Text of fluxgate.toml; empty where there is none"`
	Source   *Source `json:"source,omitempty" doc:"What to make the image from; wins over the manifest's [build]"`
	Digest   string  `json:"digest,omitempty" pattern:"^sha256:[0-9a-f]{64}$" patternDescription:"sha256: and 64 hex digits" doc:"Of the context before compression; the same again makes no release"`
	Force    bool    `json:"force,omitempty" doc:"Make a release even if nothing changed"`
}

// Verdict is what a push would do.
type Verdict struct {
	Verdict VerdictKind `json:"verdict" enum:"push,settings,unchanged" doc:"push: a new release, send the context; settings: only policy or domains change, send no context; unchanged: nothing to do"`
	App     string      `json:"app"`
	Release int         `json:"release" doc:"Number of the serving release; 0 where there is none"`
	URLs    []string    `json:"urls" doc:"The app's addresses, the main one first"`
}

// VerdictKind is a Verdict in a word.
type VerdictKind string

// The verdicts.
const (
	VerdictPush      VerdictKind = "push"
	VerdictSettings  VerdictKind = "settings"
	VerdictUnchanged VerdictKind = "unchanged"
)

// plan is a checked push.
type plan struct {
	app      string
	state    router.AppState // as stored; of a new app, what it would begin as
	manifest router.Manifest
	release  router.Release // without an image yet
	force    bool
}

// plan checks everything about a push that can be checked without its context,
// and reports all that is wrong at once.
func (s *Server) plan(ctx context.Context, app string, spec PushSpec) (*plan, error) {
	p := &plan{app: app, force: spec.Force}
	var bad violations
	if v := router.CheckAppName(app); v != nil {
		bad.add(*v)
	}
	m, err := router.ParseManifest([]byte(spec.Manifest))
	var e *router.Error
	if errors.As(err, &e) {
		bad.add(e.Violations...)
	} else if err != nil {
		return nil, err
	}
	p.manifest = m

	p.state = router.AppState{App: router.App{Name: app, Policy: router.DefaultPolicy()}}
	st, err := s.b.Apps.Load(ctx, app)
	switch {
	case err == nil:
		p.state = st
	case router.CodeOf(err) != router.CodeNotFound:
		return nil, err
	}
	_, wrong := p.state.App.Policy.With(m.Scale, "scale.")
	bad.add(wrong...)
	for i, host := range m.Domains {
		if v := s.checkDomain(fmt.Sprintf("domains[%d]", i), app, host); v != nil {
			bad.add(*v)
		}
	}
	source, v := sourceOf(m, spec.Source)
	if v != nil {
		bad.add(*v)
	}
	if len(bad) > 0 {
		slices.SortStableFunc(bad, func(a, b router.Violation) int { return strings.Compare(a.Field, b.Field) })
		return nil, router.Invalid("the push", bad)
	}
	if m.Domains != nil {
		p.manifest.Domains = slices.Compact(slices.Sorted(slices.Values(m.Domains)))
	}
	p.release = router.Release{Source: source, Run: m.Run, Env: m.Env, Digest: spec.Digest, Note: "push"}
	return p, nil
}

// violations is a list without repetitions: two checks may find the same.
type violations []router.Violation

func (l *violations) add(vs ...router.Violation) {
	for _, v := range vs {
		if !slices.ContainsFunc(*l, func(o router.Violation) bool { return o.Field == v.Field && o.Limit == v.Limit }) {
			*l = append(*l, v)
		}
	}
}

// sourceOf is what to build: given is what the client says, which by then it
// has taken from the manifest or found in the folder.
func sourceOf(m router.Manifest, given *Source) (router.Source, *router.Violation) {
	source := m.Source
	if given != nil {
		source = router.Source{Kind: given.Kind, Path: given.Path}
	}
	wrong := func(value, limit, remedy string) (router.Source, *router.Violation) {
		return source, &router.Violation{Field: "build", Value: value, Limit: limit, Remedy: remedy}
	}
	switch source.Kind {
	case router.SourceImage:
		if source.Path == "" || strings.ContainsAny(source.Path, " \t\r\n\x00") || strings.HasPrefix(source.Path, "-") {
			return wrong(fmt.Sprintf("%q", source.Path), "an image reference", `write "docker.io/library/nginx:1.27"`)
		}
	case router.SourceContainerfile, router.SourceStatic:
		source.Path = path.Clean(source.Path)
		if path.IsAbs(source.Path) || source.Path == ".." || strings.HasPrefix(source.Path, "../") || strings.ContainsRune(source.Path, 0) {
			return wrong(fmt.Sprintf("%q", source.Path), "a path inside the folder", "write it relative to fluxgate.toml")
		}
		if source.Kind == router.SourceContainerfile && source.Path == "." {
			return wrong("", "the path of a Containerfile", `write containerfile = "Containerfile" below [build]`)
		}
	default:
		return wrong(string(source.Kind), "something to make an image from", "add a Containerfile or an index.html, or name an image")
	}
	return source, nil
}

// sameRelease reports whether the serving release is what a push would make.
func (p *plan) sameRelease() bool {
	serving, ok := p.state.Serving()
	if !ok || p.force || p.release.Digest == "" {
		return false
	}
	candidate := p.release
	candidate.Secrets = p.state.App.Secrets
	return candidate.SameAs(*serving)
}

// newSettings reports whether the push changes the policy or the domains.
func (p *plan) newSettings() bool {
	next := p.state.App
	p.applySettings(&next, "", time.Time{})
	return next.Policy != p.state.App.Policy || !sameSet(next.Domains, p.state.App.Domains)
}

// applySettings changes the app as the manifest says; where that is not valid
// any more, the policy stays.
func (p *plan) applySettings(app *router.App, by string, at time.Time) {
	policy, _ := app.Policy.With(p.manifest.Scale, "scale.")
	app.SetPolicy(policy, by, at)
	if p.manifest.Domains != nil {
		app.Domains = p.manifest.Domains
	}
}

func (p *plan) verdict() VerdictKind {
	switch {
	case !p.sameRelease():
		return VerdictPush
	case p.newSettings():
		return VerdictSettings
	}
	return VerdictUnchanged
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
