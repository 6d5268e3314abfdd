package router

import (
	"fmt"
	"maps"
	"reflect"
	"time"
)

// Release is an immutable version of an app: an image and how it runs.
type Release struct {
	App     string
	Number  int    // v1, v2, …
	Image   string // image ID on the nodes: sha256:…
	Source  Source
	Run     Run
	Env     map[string]string // from the manifest
	Secrets map[string]Secret // from `env set`; wins over Env
	Digest  string            // of what was pushed (context or image, and config): the same again makes no release
	Failed  string            // why it never served; empty where it did or may
	By      string            // name of the token that made it
	Note    string            // what made it: push, env set, …
	Created time.Time
}

// SourceKind is one of the kinds of input that become an image.
type SourceKind string

// The kinds.
const (
	SourceContainerfile SourceKind = "containerfile"
	SourceStatic        SourceKind = "static"
	SourceImage         SourceKind = "image"
)

// Source says what an image is made from.
type Source struct {
	Kind SourceKind
	Path string // the Containerfile, the static folder (both relative to the context) or the image reference
}

// Run is how a release's containers are started and reached.
type Run struct {
	Command []string // empty: the image's own
	Port    int      // the one port the app listens on, told to it as $PORT
	Health  string   // path that answers 2xx or 3xx when healthy; empty: a TCP connection is enough
	Sticky  bool     // a client goes on with the instance that answered it, by a cookie
	Timeout Duration // the longest a request may wait for the app's first byte
	CPU     float64  // cores; 0 means no limit
	Memory  Bytes    // ceiling; 0 means no limit
	Reserve Bytes    // memory that placement counts for an instance: the ceiling where the app has named one

	Placement Placement // on which nodes
}

// DefaultRun is what a manifest that says nothing gets.
func DefaultRun() Run {
	return Run{Port: 8080, Timeout: Duration(60 * time.Second), CPU: 1, Memory: 512 << 20, Reserve: 32 << 20}
}

// Name is "v3".
func (r Release) Name() string { return fmt.Sprintf("v%d", r.Number) }

// Environment is what a container of the release gets: the manifest's
// variables, the secrets over them, and PORT.
func (r Release) Environment() map[string]string {
	env := make(map[string]string, len(r.Env)+len(r.Secrets)+1)
	maps.Copy(env, r.Env)
	for k, v := range r.Secrets {
		env[k] = v.Reveal()
	}
	env["PORT"] = fmt.Sprint(r.Run.Port)
	return env
}

// SameAs reports whether a push of r would run exactly what o runs.
func (r Release) SameAs(o Release) bool {
	return r.Digest == o.Digest && r.Source == o.Source && reflect.DeepEqual(r.Run, o.Run) &&
		maps.Equal(r.Env, o.Env) && maps.Equal(r.Secrets, o.Secrets)
}
